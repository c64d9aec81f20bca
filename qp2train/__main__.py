"""`python -m qp2train` is `qp2train`."""

from qp2train.cli import main

main()
