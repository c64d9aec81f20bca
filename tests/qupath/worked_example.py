"""The smallest useful .qpdata file: one triangle "A1" of class Tumor. QuPath 0.4 to 0.7 all read it.

Put together by hand after the grammar of Java's serialisation; the numbers in brackets are handles.
"""

from __future__ import annotations

import struct

ROOT_ID = "00000000-0000-0000-0000-000000000001"
TRIANGLE_ID = "00000000-0000-0000-0000-000000000002"


def utf(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">H", len(raw)) + raw


def string(text: str) -> bytes:
    return b"\x74" + utf(text)


def ref(handle: int) -> bytes:
    return b"\x71" + struct.pack(">I", 0x7E0000 + handle)


def desc(name: str, uid: int, flags: int, fields: bytes = b"\0\0", parent: bytes = b"\x70") -> bytes:
    return b"\x72" + utf(name) + struct.pack(">qB", uid, flags) + fields + b"\x78" + parent


def field(kind: str, name: str, signature: bytes = b"") -> bytes:
    return kind.encode() + utf(name) + signature


Q = "qupath.lib."
O = Q + "objects."  # noqa: E741
OBJECT_ARRAY = desc("[Ljava.lang.Object;", -8012369246846506644, 2)
HIERARCHY_FIELDS = (
    b"\0\2"
    + field("L", "rootObject", string("Lqupath/lib/objects/PathObject;"))  # [06]
    + field("L", "tmaGrid", string("Lqupath/lib/objects/hierarchy/TMAGrid;"))  # [07]
)
CLASS_FIELDS = (
    b"\0\3"
    + field("L", "colorRGB", string("Ljava/lang/Integer;"))  # [22]
    + field("L", "name", string("Ljava/lang/String;"))  # [23]
    + field("L", "parentClass", string("Lqupath/lib/objects/classes/PathClass;"))  # [24]
)
POLYGON_FIELDS = (
    b"\0\7"
    + field("I", "c")
    + field("I", "t")
    + field("I", "z")
    + field("L", "name", ref(0x23))
    + field("L", "stats", string("Lqupath/lib/roi/ClosedShapeStatistics;"))  # [29]
    + field("[", "x", string("[F"))  # [2A]
    + field("[", "y", ref(0x2A))
)
ROOT_OPENING = (
    b"\x73"
    + desc(O + "PathRootObject", 1, 0x0C, parent=desc(O + "PathObject", 1, 0x0C))  # [09] [0A], instance [0B]
    + b"\x70\x70"  # name, colour
    + b"\x73"
    + desc(O + "MetadataMap", 1, 0x0C)  # [0C], instance [0D]
    + b"\x73"
    + desc(
        "java.lang.Integer",
        1360826667806852920,
        2,
        b"\0\1" + field("I", "value"),  # [0E]
        desc("java.lang.Number", -8742448824652078965, 2),  # [0F], instance [10]
    )
    + struct.pack(">i", 1)
    + b"\x75"
    + OBJECT_ARRAY  # [11], array [12]
    + struct.pack(">i", 1)
    + string("Object ID")  # [13]
    + b"\x75"
    + ref(0x11)  # array [14]
    + struct.pack(">i", 1)
    + string(ROOT_ID)  # [15]
    + b"\x78\x70"  # end of the map, no measurements
    + b"\x77\x04"
    + struct.pack(">i", 1)  # one child
)
ANNOTATION = (
    b"\x73"
    + desc(
        O + "PathAnnotationObject", 1, 0x0C, parent=desc(O + "PathROIObject", 1, 0x0C, parent=ref(0x0A))
    )  # [16] [17]
    + string("A1")  # instance [18], name [19]
    + b"\x70"  # colour
    + b"\x73"
    + ref(0x0C)  # MetadataMap [1A]
    + b"\x73"
    + ref(0x0E)  # Integer [1B]
    + struct.pack(">i", 1)
    + b"\x75"
    + ref(0x11)  # keys [1C]
    + struct.pack(">i", 1)
    + ref(0x13)
    + b"\x75"
    + ref(0x11)  # values [1D]
    + struct.pack(">i", 1)
    + string(TRIANGLE_ID)  # [1E]
    + b"\x78\x70"
    + b"\x77\x04"
    + struct.pack(">i", 0)  # no children
    + b"\x73"
    + desc("java.lang.Boolean", -3665804199014368530, 2, b"\0\1" + field("Z", "value"))  # [1F], instance [20]
    + b"\0"  # not locked
    + b"\x73"
    + desc(O + "classes.PathClass", 1, 2, CLASS_FIELDS)  # [21], instance [25]
    + b"\x73"
    + ref(0x0E)  # Integer [26]
    + struct.pack(">i", -65536)
    + string("Tumor")  # [27]
    + b"\x70"  # no parent class
    + b"\x73"
    + desc(Q + "roi.PolygonROI$SerializationProxy", 1, 2, POLYGON_FIELDS)  # [28], instance [2B]
    + struct.pack(">iii", -1, 0, 0)
    + b"\x70\x70"  # name, stats
    + b"\x75"
    + desc("[F", 836686056779680834, 2)  # [2C], array [2D]
    + struct.pack(">ifff", 3, 1, 4, 4)
    + b"\x75"
    + ref(0x2C)  # array [2E]
    + struct.pack(">ifff", 3, 2, 2, 6)
    + b"\x77\x08"
    + struct.pack(">d", float("nan"))  # class probability
    + b"\x78"
)
HEAD = (
    bytes.fromhex("ACED0005")
    + b"\x77\x15"
    + utf("Data file version 3")
    + string('{"dataVersion":3,"qupathVersion":"0.6.0"}')  # [00]
    + b"\x7e"
    + desc(Q + "images.ImageData$ImageType", 0, 0x12, parent=desc("java.lang.Enum", 0, 0x12))  # [01] [02], [03]
    + string("UNSET")  # [04]
    + b"\x73"
    + desc(O + "hierarchy.PathObjectHierarchy", 1, 2, HIERARCHY_FIELDS)  # [05], instance [08]
)
TAIL = b"\x78" + b"\x70" + string("EOF")  # end of the root, no TMA grid, [2F]

TRIANGLE = HEAD + ROOT_OPENING + ANNOTATION + TAIL
HANDLES = 0x30
