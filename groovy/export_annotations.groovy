// QuPath 0.5-0.7: write the annotations of every image of the open project as GeoJSON, a file per image (choose Run,
// not "Run for project"). Project and images are only read, unsaved edits of open images too. Copy the files beside
// the slides: `qp2train` reads such a folder. Files have their slides' names; an older file is kept as `.DATE.bkp`.

def folder = null   // null: "geojson" in the project's folder; or for example 'D:/slides'
import com.google.gson.JsonParser
import java.lang.reflect.Modifier
import java.security.MessageDigest
import org.locationtech.jts.geom.CoordinateFilter
import org.locationtech.jts.io.*
import qupath.lib.common.GeneralTools
import qupath.lib.io.GsonTools
import static qupath.lib.gui.scripting.QPEx.*

def project = getProject()
if (project == null) throw new IllegalStateException('Open a project first (File > Project > Open project).')
def target = new File(folder ?: project.getPath().resolveSibling('geojson').toString())
target.mkdirs()
def full = project.getImageList().collectEntries { entry ->   // the slide's file name, else the image's
    def name = entry.getURIs().findResult { it.getPath()?.tokenize('/')?.getAt(-1) } ?: entry.getImageName()
    [entry.getID(), GeneralTools.stripInvalidFilenameChars(name)]
}
def stem = full.collectEntries { id, name -> [id, name.replaceFirst(/(?i)(\.ome\.tiff?|\.[a-z]\w*)$/, '')] }
def shared = { names, id -> names.values().count { it.equalsIgnoreCase(names[id]) } > 1 }
def open = [*(getQuPath()?.getAllViewers()*.getImageData() ?: []), getCurrentImageData()].findAll { it != null }
int failed = 0
for (entry in project.getImageList()) {
    def id = entry.getID(), name = !shared(stem, id) ? stem[id] : !shared(full, id) ? full[id] : full[id] + '-' + id
    try {
        def live = open.find { project.getEntry(it) == entry }
        def hierarchy = live ? live.getHierarchy() : entry.hasImageData() ? entry.readHierarchy() : null
        def features = hierarchy?.getAnnotationObjects()?.collect { object ->
            def feature = JsonParser.parseString(GsonTools.getInstance().toJson(object))
            def about = object.getMetadata(), written = about['qp2train fingerprint']
            def byHand = written ? written != fingerprint(object) : !about['qp2train written as']
            if (about['qp2train source'] && byHand)   // corrected by hand: yours, no longer the model's
                feature.getAsJsonObject('properties').getAsJsonObject('metadata')
                    .with { it.add('qp2train corrected', it.remove('qp2train source')) }
            feature.toString()
        } ?: []
        def text = /{"type": "FeatureCollection", "features": [/ + features.join(',\n') + ']}'
        def file = new File(target, name + '.geojson'), date = file.lastModified()
        def old = new File(String.format('%s.%2$tF-%2$tH%2$tM%2$tS.bkp', file, date))
        if (file.exists() && file.getText('UTF-8') != text && !file.renameTo(old)) throw new IOException("$file in use")
        file.setText(text, 'UTF-8')
        println "${features.size()} annotations of ${entry.getImageName()} -> ${file}"
    } catch (Exception error) {
        println "FAILED ${entry.getImageName()}: ${error}; image ${++failed} that failed"
    }
}
println failed ? "${failed} IMAGES FAILED, see above" : "all images are in ${target}"

// qp2train's fingerprint of what a human can change: class, name, lock, description, outline as QuPath stores it.
def fingerprint(object) {
    def proxy = object.getROI().writeReplace()
    def fields = proxy.class.declaredFields.findAll { !Modifier.isStatic(it.modifiers) }.sort { it.name }
    def values = fields.collect { it.setAccessible(true); it.get(proxy) }
    def lists = values.findAll { it instanceof float[] || it instanceof double[] }*.toList()
    if (proxy.class.name.contains('.PolygonROI') && lists[0].size() > 1 && lists.every { it[0] == it[-1] })
        lists = lists*.init()   // newer versions repeat the first vertex
    def bytes = { numbers ->
        def out = new ByteArrayOutputStream(), data = new DataOutputStream(out)
        def write = [(Integer): data.&writeInt, (Float): data.&writeFloat, (Double): data.&writeDouble]
        numbers.each { write[it.class](it) }
        out.toByteArray()
    }
    def round = { (double) (float) (Math.floor(it / 0.01d + 0.5d) * 0.01d) }
    def areas = values.findAll { it instanceof byte[] }.collect { wkb ->
        def area = new WKBReader().read(wkb)
        area.apply({ it.setX(round(it.getX())); it.setY(round(it.getY())) } as CoordinateFilter)
        new WKBWriter(2).write(area)
    }
    def hash = MessageDigest.getInstance('SHA-256')
    def texts = [object.getPathClass() ?: '', object.getName() ?: '', object.isLocked() ? 'locked' : '',
        *[object.getMetadata()['ANNOTATION_DESCRIPTION']].findAll().collect { 'description ' + it }]
    hash.update([*texts, proxy.class.name].join('\0').getBytes('UTF-8'))
    def parts = [*areas, *lists.collect(bytes), bytes(values.findAll { it instanceof Number })]
    parts.each { hash.update((byte) 0); hash.update(it) }
    hash.digest().encodeHex().toString().take(16)
}
