"""Patches and masks as files for other tools, and PNG pairs back in. One file per format."""

from qp2train.sampling.export.export import check_export, export_patches
from qp2train.sampling.export.reimport import import_png

__all__ = ["check_export", "export_patches", "import_png"]
