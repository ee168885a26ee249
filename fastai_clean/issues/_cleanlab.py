"Import cleanlab first, here: with its extra `datalab` installed, it silences every warning of the whole process"
import warnings

with warnings.catch_warnings():
    pass
