// QuPath 0.5-0.7: predict the open image with a model that qp2train trained, write the predictions into the project
// and show them. It runs in the background, its output is in QuPath's log (View > Show log). Work on other images
// meanwhile; if you change this one, nothing is reloaded and your changes stay. Needs qp2train on this computer.

def command = 'qp2train'   // or its full path, for example 'C:/Users/me/envs/path/Scripts/qp2train.exe'
def run = null             // null: ask for the folder of the run; or for example 'D:/runs/glands'
def options = []           // more options of `qp2train predict`, for example ['--as', 'detection']

import javafx.application.Platform
import org.slf4j.LoggerFactory
import qupath.fx.dialogs.*
import static qupath.lib.gui.scripting.QPEx.*

def log = LoggerFactory.getLogger('qp2train')
def gui = getQuPath(), project = getProject(), imageData = getCurrentImageData(), entry = getProjectEntry()
if (gui == null) throw new IllegalStateException('Without QuPath\'s window use `qp2train predict` itself.')
if (entry == null) return Dialogs.showErrorMessage('qp2train', 'Open an image of a project first.')
run = run ?: FileChoosers.promptForDirectory('Folder of the trained run', null)?.path
if (!run) return
def name = entry.getImageName()
if (imageData.isChanged() || !entry.hasImageData()) {
    // qp2train reads the saved file: what is not in it would be lost when the image is read again.
    if (!Dialogs.showConfirmDialog('qp2train', "${name} has changes that are not saved. Save them and predict?")) return
    entry.saveImageData(imageData)
    project.syncChanges()
}
def call = [command, 'predict', run, project.getPath(), '--write', '--image', entry.getID(), *options]*.toString()
log.info('{}', call.join(' '))

Thread.startDaemon('qp2train predict') {
    def last = [] as LinkedList, code = -1
    try {
        def builder = new ProcessBuilder(call).redirectErrorStream(true)
        builder.environment().putAll([PYTHONUTF8: '1', NO_COLOR: '1', COLUMNS: '200'])
        def process = builder.start()
        process.outputStream.close()
        process.inputStream.eachLine('UTF-8') { line ->
            log.info('{}', line)
            last << line
            if (last.size() > 15) last.removeFirst()
        }
        code = process.waitFor()
    } catch (IOException error) {
        last << "${command} could not be started: ${error.message}" << 'Set `command` to the full path of qp2train.'
    }
    Platform.runLater {
        def viewer = gui.getAllViewers().find { it.getImageData() && project.getEntry(it.getImageData()) == entry }
        if (code != 0)
            Dialogs.showErrorMessage('qp2train', "${name} was not predicted (exit ${code}).\n\n${last.join('\n')}")
        else if (viewer == null)
            Dialogs.showInfoNotification('qp2train', "${name} is predicted; open it to see the predictions.")
        else if (viewer.getImageData().isChanged())
            Dialogs.showErrorMessage('qp2train', "You changed ${name} while it was predicted. Nothing was reloaded, " +
                'nothing is lost: save your changes, then run this script again.\n\n(File > Reload data drops your ' +
                'changes and shows the predictions.)')
        else {
            viewer.setImageData(entry.readImageData())
            Dialogs.showInfoNotification('qp2train', last.find { it.contains(' added, ') } ?: name + ' is predicted.')
        }
    }
}
