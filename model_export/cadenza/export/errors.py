"""Everything the exporter refuses, as one tree:

ExportError
├── SourceError            the source cannot be read
├── UnsupportedModelError  a setting that cannot be exported exactly
├── TensorError            a tensor is missing, unexpected or of the wrong shape
├── TokenizerError         the tokenizer cannot be carried over exactly
├── OutputError            the output folder cannot be written
└── ArtifactError          a folder is no artifact, or one of another contract version
"""


class ExportError(Exception):
    """The export was refused or failed; the message is one line for the person who asked for it."""


class SourceError(ExportError):
    """The source is not there, is damaged or is in no known format."""


class UnsupportedModelError(ExportError):
    """A setting of the model has a value that cannot be exported exactly."""


class TensorError(ExportError):
    """A tensor of the source is missing, unexpected, of the wrong shape or of an unknown number format."""


class TokenizerError(ExportError):
    """The tokenizer is not a byte-level BPE, or its parts contradict each other."""


class OutputError(ExportError):
    """The output folder exists, has no version number for a name, or cannot be written."""


class ArtifactError(ExportError):
    """A folder is not what an export writes, or has a contract version that this release does not know."""
