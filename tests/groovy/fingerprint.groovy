// Run the function `fingerprint` of the script named on stand-ins for QuPath's objects; print one line for each.
// Areas with holes are not among them: JTS, which QuPath brings, is not here.
def loader = new GroovyClassLoader()
loader.parseClass('package org.locationtech.jts.geom\ninterface CoordinateFilter {}')
loader.parseClass('package org.locationtech.jts.io\nclass WKBReader {}')
loader.parseClass('package org.locationtech.jts.io\nclass WKBWriter {}')
def stored = { kind, fields ->
    def outer = loader.parseClass("package qupath.lib.roi\nclass ${kind} { static class SerializationProxy { ${fields} } }")
    loader.loadClass(outer.name + '$SerializationProxy')
}
def vertices = 'private static final long serialVersionUID = 1L; private String name; private int c = -1, t = 2, z = 1; '
def polygon = stored('PolygonROI', vertices + 'float[] x = [1.1f, 5f, 5f], y = [2f, 2f, 9.7f]; Object stats = null')
def closed = stored('PolygonROI', vertices + 'float[] x = [1.1f, 5f, 5f, 1.1f], y = [2f, 2f, 9.7f, 2f]; Object stats = "cached"')
def points = stored('PointsROI', vertices + 'float[] x = [1.1f, 3f], y = [2f, 4f]')
def ellipse = stored('EllipseROI', vertices + 'double x = 1, x2 = 5.1d, y = 2, y2 = 9')

def source = new File(args[0]).getText('UTF-8')
def imports = source.readLines().findAll { it =~ /^import (java|org)/ }.join('\n')
def script = new GroovyShell(loader).parse(imports + '\n' + source.substring(source.indexOf('def fingerprint(object)')))
def object = { proxy, name, className, locked, about = [:] ->
    [getROI: { [writeReplace: { proxy.getDeclaredConstructor().newInstance() }] as Expando }, getName: { name },
     getPathClass: { className }, isLocked: { locked }, getMetadata: { about }] as Expando
}
println script.fingerprint(object(polygon, null, null, false))
println script.fingerprint(object(closed, null, null, false))
println script.fingerprint(object(polygon, 'näme', 'Tumor: Positive', true))
println script.fingerprint(object(points, 'n', 'Stroma', false))
println script.fingerprint(object(ellipse, 'n', null, false))
println script.fingerprint(object(polygon, null, null, false, [ANNOTATION_DESCRIPTION: 'seen']))
