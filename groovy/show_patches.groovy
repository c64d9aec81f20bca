// QuPath 0.5-0.7: show the patches that qp2train cut from the open image as tiles in the colour of their class.
// The table is a CSV file with the columns entry, image, x, y, size (full-resolution pixels), label, split; further
// columns with numbers become measurements (Measure > Show measurement maps colours the tiles by them).
// Running it again replaces the tiles that it made before, and nothing else. Nothing is saved until you save.

def path = null         // null: ask for the file; or for example 'D:/patches.csv'
def colourBy = 'label'  // 'label': the class; 'split': train, val and test
def only = null         // null: all; or for example 'train'

import qupath.fx.dialogs.*
import qupath.lib.objects.PathObjects
import qupath.lib.objects.classes.PathClass
import qupath.lib.regions.ImagePlane
import qupath.lib.roi.ROIs
import static qupath.lib.gui.scripting.QPEx.*

def imageData = getCurrentImageData(), entry = getProjectEntry()
if (imageData == null) throw new IllegalStateException('Open an image first.')
def csv = FileChoosers.createExtensionFilter('CSV', '*.csv')
def file = path ? new File(path) : FileChoosers.promptForFile('Patch table', csv)
if (file == null) return

def cells = { line -> line.split(/,(?=(?:[^"]*"[^"]*")*[^"]*$)/, -1)*.replaceAll(/^"|"$/, '')*.replace('""', '"') }
def lines = file.readLines('UTF-8')*.replace('\uFEFF', '').findAll()
def columns = lines ? cells(lines[0]) : []
def missing = ['entry', 'image', 'x', 'y', 'size', 'label', 'split'] - columns
if (missing) throw new IllegalStateException("${file} is no patch table of qp2train, it lacks ${missing.join(', ')}")
def rows = lines.tail().collect { [columns, cells(it)].transpose().collectEntries() }
rows.eachWithIndex { row, i ->
    if (['x', 'y', 'size'].any { !row[it]?.isDouble() })
        throw new IllegalStateException("${file}, line ${i + 2}: x, y and size must be numbers")
}

// By id where the table is of this project; else (a folder of slides) by the image's name.
def images = getProject()?.getImageList()?.collectEntries { [it.getID(), it.getImageName()] } ?: [:]
def name = entry?.getImageName() ?: imageData.getServer().getMetadata().getName()
def byId = rows.any { it.image && images[it.entry] == it.image }
def names = [name, name.replaceFirst(/\.[^.]+$/, '')]
def isHere = { byId ? it.entry == entry?.getID() : it.image in names || it.entry in names }
def here = rows.findAll(isHere).findAll { !only || it.split == only }

def numbers = columns - ['entry', 'image', 'x', 'y', 'size', 'label', 'split']
def tiles = here.collect { row ->
    def (x, y, size) = [row.x, row.y, row.size]*.toDouble()
    def tile = PathObjects.createTileObject(ROIs.createRectangleROI(x, y, size, size, ImagePlane.getDefaultPlane()))
    if (row[colourBy]) tile.setPathClass(PathClass.fromString(row[colourBy]))
    tile.setName(row.split ?: null)
    numbers.findAll { row[it]?.isDouble() }.each { tile.getMeasurementList().put(it, row[it].toDouble()) }
    tile.storeMetadataValue('qp2train patches', file.name)
    tile
}
def hierarchy = imageData.getHierarchy()
def old = hierarchy.getTileObjects().findAll { it.getMetadata()['qp2train patches'] }
hierarchy.removeObjects(old, true)
hierarchy.addObjects(tiles)
def counts = here.countBy { it.label }.collect { "${it.value} x ${it.key ?: 'no class'}" }.join(', ')
println "${name}: ${tiles.size()} of ${rows.size()} patches shown (${counts}), ${old.size()} earlier tiles replaced"
if (!tiles) println "The table has patches of: ${rows*.image.unique().take(20).join(', ')}"
