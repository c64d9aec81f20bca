// QuPath 0.5-0.7: send the selected annotations as prompts to a running `qp2train serve`; its answers take their
// places. A prompt is points (of class "Prompt-": what does not belong to the object), a rectangle, or an outline to
// refine. The answer has the prompt's class and name, and the prompt as metadata "qp2train prompt" (docs/refine.md).
// A locked prompt stays beside its answer, and so does one that gets no answer. For images in RGB only.

def server = 'http://localhost:8000/sam/'
def type = 'vit_b'   // what `qp2train serve` lists its models under
def model = null     // null: the server's first; or the url of one that it lists, for example 'run:glands-3'
def context = 1.4    // the part of the image that is sent: the prompt's box, so much larger,
def (smallest, largest) = [512, 1024]   // at least so many pixels of the slide, shrunk to so many if it is larger

import java.awt.geom.*
import java.awt.image.BufferedImage
import java.net.http.*
import qupath.fx.dialogs.Dialogs
import qupath.lib.io.GsonTools
import qupath.lib.objects.PathObjects
import qupath.lib.roi.*
import static qupath.lib.gui.scripting.QPEx.*

def say = { Dialogs.showErrorMessage('qp2train', it.toString()) }
def image = getCurrentImageData()?.getServer(), hierarchy = getCurrentImageData()?.getHierarchy()
def chosen = (hierarchy ? getSelectedObjects() : []).toList().findAll { it.isAnnotation() && it.getROI() }
def (against, prompts) = chosen.split { it.getROI().isPoint() && it.getPathClass()?.toString() == 'Prompt-' }
if (!prompts) return say('Select points, rectangles or outlines to send first.')
if (!image.isRGB()) return say('Only images in RGB colours can be sent.')
def gson = GsonTools.getInstance(), client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build()
def png = { picture ->
    def out = new ByteArrayOutputStream()
    javax.imageio.ImageIO.write(picture, 'png', out)
    out.toByteArray().encodeBase64().toString()
}
for (prompt in prompts) {
    def roi = prompt.getROI(), away = against*.getROI()*.getAllPoints().flatten()
    def boxes = [prompt, *against]*.getROI()*.getGeometry()*.getEnvelopeInternal()
    def box = boxes.inject { a, b -> a.expandToInclude(b); a }
    def (w, h) = [box.getWidth(), box.getHeight()].collect { Math.max(it * context, smallest) }
    int x = Math.max(0, box.centre().x - w / 2), y = Math.max(0, box.centre().y - h / 2)
    (w, h) = [Math.min(w, image.getWidth() - x) as int, Math.min(h, image.getHeight() - y) as int]
    def view = image.readRegion(Math.max(1d, Math.max(w, h) / largest), x, y, w, h, roi.getZ(), roi.getT())
    def canvas = new BufferedImage(view.width, view.height, BufferedImage.TYPE_INT_RGB)
    canvas.createGraphics().drawImage(view, 0, 0, null)
    def toView = AffineTransform.getScaleInstance(view.width / w, view.height / h)
    toView.translate(-x, -y)
    def pixels = { xy -> xy.collect { toView.transform(new Point2D.Double(it.getX(), it.getY()), null) }
        .collect { [Math.round(it.x) as int, Math.round(it.y) as int] } }
    def toward = roi.isPoint() ? roi.getAllPoints() : [], labels = away.collect { 0 } + toward.collect { 1 }
    def mask = new BufferedImage(view.width, view.height, BufferedImage.TYPE_BYTE_GRAY)
    if (roi.isArea()) mask.createGraphics().fill(toView.createTransformedShape(roi.getShape()))
    def body = [type: type, b64img: png(canvas), multimask_output: false, checkpoint_url: model,
        point_coords: pixels(away + toward) ?: null, point_labels: labels ?: null,
        bbox: roi instanceof RectangleROI ? pixels(roi.getAllPoints()[0, 2]).flatten() : null,
        b64mask: roi.isArea() && !(roi instanceof RectangleROI) ? png(mask) : null].findAll { it.value != null }
    def kept = [region: [x, y, x + w, y + h], view: [view.width, view.height], labels: labels,
        points: (away + toward).collect { [it.getX(), it.getY()] }, mask: body.b64mask ? roi.geometry.toText() : null,
        box: body.bbox ? roi.getAllPoints()[0, 2].collectMany { [it.getX(), it.getY()] } : null]
    def post = HttpRequest.newBuilder(URI.create(server)).header('Content-Type', 'application/json')
        .POST(HttpRequest.BodyPublishers.ofString(gson.toJson(body))).timeout(java.time.Duration.ofMinutes(5)).build()
    def answer
    try { answer = client.send(post, HttpResponse.BodyHandlers.ofString()) }
    catch (IOException error) { return say("No server at ${server} (${error}). Start one: qp2train serve RUN") }
    if (answer.statusCode() != 200) return say("The server said ${answer.statusCode()}: ${answer.body()}")
    def results = com.google.gson.JsonParser.parseString(answer.body()).collect { feature ->
        def found = GsonTools.parseObjectsFromGeoJSON(feature)[0], about = feature.getAsJsonObject('properties')
        def outline = RoiTools.transformROI(found.getROI(), toView.createInverse()).updatePlane(roi.getImagePlane())
        def result = PathObjects.createAnnotationObject(outline), name = prompt.getPathClass()?.toString()
        if (name && !name.startsWith('Prompt')) result.setPathClass(prompt.getPathClass())
        result.setName(prompt.getName())
        def by = about?.get('sam_model')?.getAsString() ?: type
        def provenance = ['qp2train source': by, 'qp2train prompt': gson.toJson(kept + [model: by])]
        result.getMetadata().putAll(prompt.getMetadata() + provenance + found.getMetadata())
        result.getMetadata().remove('qp2train fingerprint')   // you asked for it: it is as if you had drawn it
        found.getMeasurements().each { key, value -> result.getMeasurementList().put(key, value as double) }
        if (about?.has('quality')) result.getMeasurementList().put('SAM Quality', about.get('quality').getAsDouble())
        result
    }
    if (results && !prompt.isLocked()) hierarchy.removeObject(prompt, true)
    hierarchy.addObjects(results)
    println "${prompt}: ${results.size()} answers"
}
