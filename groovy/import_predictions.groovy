// QuPath 0.5-0.7: import predictions that `qp2train predict RUN PROJECT --geojson FOLDER` wrote into the open image.
// Importing again replaces what the same model had there, except objects that you changed since (outline, class,
// name, lock, description): those are yours and stay, as does all else. Nothing is saved until you save the image.
// For all images: set `path` to the folder, then Script editor > Run > Run for project.

def path = null   // null: ask for a file; or a file or a folder, for example 'D:/predictions'

import com.google.gson.JsonElement
import java.lang.reflect.Modifier
import java.security.MessageDigest
import java.util.zip.GZIPInputStream
import org.locationtech.jts.geom.CoordinateFilter
import org.locationtech.jts.io.*
import qupath.fx.dialogs.*
import qupath.lib.io.GsonTools
import static qupath.lib.gui.scripting.QPEx.*

def imageData = getCurrentImageData(), id = getProjectEntry()?.getID()
if (imageData == null) throw new IllegalStateException('Open an image first.')
def name = getProjectEntry()?.getImageName() ?: imageData.getServer().getMetadata().getName()
def stem = name.replaceFirst(/\.[^.]+$/, '')
def file = path ? new File(path) : FileChoosers.promptForFile('Predictions for ' + name)
def names = ["${id}-${stem}", stem].collectMany { [it + '.geojson', it + '.geojson.gz'] }
if (file?.isDirectory()) file = names.collect { new File(file, it) }.find { it.exists() }
else if (file && !(file.name in names)
    && !Dialogs.showConfirmDialog('qp2train', "${file.name} is not named after ${name}. Import it?")) return
if (file == null) return println("${name}: no predictions to import")

def stream = file.name.endsWith('.gz') ? new GZIPInputStream(file.newInputStream()) : file.newInputStream()
def json = stream.withReader('UTF-8') { GsonTools.getInstance().fromJson(it, JsonElement) }
def features = json.isJsonArray() ? json : json.getAsJsonObject().getAsJsonArray('features')
def coming = features.findResults { feature ->
    def metadata = feature.getAsJsonObject('properties')?.remove('metadata')   // QuPath 0.5 forgets a detection's
    def object = metadata?.has('qp2train source') ? GsonTools.parseObjectsFromGeoJSON(feature)[0] : null
    metadata?.entrySet()?.each { object?.storeMetadataValue(it.key, it.value.getAsString()) }
    if (object != null) object.storeMetadataValue('qp2train fingerprint', fingerprint(object))
    object
}
if (!coming) throw new IllegalStateException("${file}: nothing in it was written by qp2train predict.")
def hierarchy = imageData.getHierarchy(), sources = coming*.getMetadata()*.get('qp2train source') as Set
def written = { it.getMetadata()['qp2train fingerprint'] }
def old = hierarchy.getAllObjects(false).findAll { it.getMetadata()['qp2train source'] in sources }
def (kept, gone) = old.split { written(it) != fingerprint(it) }
def corrected = [*kept*.getID(), *kept.collect(written)] as Set   // what a kept one stands for is not added again
def added = coming.findAll { !(it.getID() in corrected || written(it) in corrected) }
hierarchy.removeObjects(gone, true)
def taken = hierarchy.getAllObjects(false)*.getID() as Set
added.findAll { it.getID() in taken }.each { it.refreshID() }
hierarchy.addObjects(added)
println "${name}: ${added.size()} objects of ${sources.join(', ')} added, ${gone.size()} earlier ones replaced, " +
    "${kept.size()} kept because you changed them, ${features.size() - coming.size()} not of qp2train left out"

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
