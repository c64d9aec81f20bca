"""ObjectExamples: the annotated objects of a patch table, as what `tune_sam` learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from qp2train.core.clicks import BitMask
from qp2train.core.labels import IGNORE
from qp2train.core.patches import PatchTable
from qp2train.errors import PromptError
from qp2train.learn.objects import OBJECT, ObjectViews, objects_of
from qp2train.refine.outline import mask_of
from qp2train.refine.prompts import Pixels

# A view (H, W, 3) uint8, an object in it (H, W) bool, and where that is known (H, W) bool; None = everywhere.
Example = tuple[Pixels, BitMask, BitMask | None]


class ObjectExamples(Sequence[Example]):
    """The objects on a table's slides, each in a view of its own, read when asked for.

    An item is the view (view_px, view_px, 3) uint8, the object (view_px, view_px) bool, and where anything is annotated
    (view_px, view_px) bool. An object too thin for its view is left out.

    Args:
        table: Patches, of the slides whose objects are meant; `table.split` keeps patients apart.
        view_px: Side of a view.
        scale: Of a view's side, 1 = 1.4 × the object's longer one.

    Raises:
        NoAnnotationError: There is no object.
        PromptError: `view_px` is below 1.
    """

    def __init__(self, table: PatchTable, *, view_px: int = 1024, scale: float = 1.5) -> None:
        if view_px < 1 or not scale > 0:
            raise PromptError(f"view_px must be at least 1 and scale above 0, not {view_px} and {scale}")
        self.objects, self.view_px, self.scale = objects_of(table), view_px, scale
        self._views = ObjectViews(self.objects, view_px)
        self._rows = [i for i in range(len(self.objects)) if self._seen(i)]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[index]
        image, mask = self._views.read(row, self.objects.view(row, scale=self.scale), self.view_px)
        return image, mask == OBJECT, mask != IGNORE

    def _seen(self, row: int) -> bool:
        view = self.objects.view(row, scale=self.scale)
        return bool(mask_of(self.objects.geometries[row], view, (self.view_px, self.view_px)).any())
