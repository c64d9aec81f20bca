// Parse the scripts named: text -> syntax tree (the conversion phase). Classes of QuPath are not needed for it.
import org.codehaus.groovy.control.CompilationFailedException
import org.codehaus.groovy.control.CompilationUnit
import org.codehaus.groovy.control.Phases

println "Groovy ${GroovySystem.version}, Java ${System.getProperty('java.version')}"
def broken = args.findAll { path ->
    def unit = new CompilationUnit()
    unit.addSource(new File(path))
    try {
        unit.compile(Phases.CONVERSION)
        return false
    } catch (CompilationFailedException error) {
        println error.message
        return true
    }
}
System.exit(broken ? 1 : 0)
