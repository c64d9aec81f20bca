// QuPath 0.5-0.7: write each image's annotations to <project>/geojson/<image>.geojson.
// Run for all images: Script editor > Run > Run for project.
// A folder with the slides and these files is what `qp2train.SlideFolder` and the recipes' `project:` read.
import static qupath.lib.gui.scripting.QPEx.*

def name = getProjectEntry().getImageName().replaceAll(/\.[^.]+$/, '')
def file = new File(buildFilePath(PROJECT_BASE_DIR, 'geojson'), name + '.geojson')
file.parentFile.mkdirs()
exportObjectsToGeoJson(getAnnotationObjects(), file.path, 'FEATURE_COLLECTION')
println "${getAnnotationObjects().size()} annotations -> ${file}"
