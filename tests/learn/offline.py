"""Builds a network with pretrained weights where there is neither network nor cache; prints what was said."""

import logging

from qp2train import LabelMap, Segmentation

logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
Segmentation(LabelMap(["A"]), encoder="resnet18").build()
