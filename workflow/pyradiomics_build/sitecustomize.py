"""Give `configparser` back what PyRadiomics 3.0.1 asks of it while it builds and Python 3.12 took away.

Python imports a module of this name by itself where it starts. The Makefile puts this folder on the PYTHONPATH of the
one command that builds PyRadiomics; once built, PyRadiomics needs neither name.
"""

import configparser

if not hasattr(configparser, "SafeConfigParser"):
    configparser.SafeConfigParser = configparser.RawConfigParser
    configparser.RawConfigParser.readfp = configparser.RawConfigParser.read_file
