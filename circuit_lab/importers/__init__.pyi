from .contract import Imported, Importer, Options, Source
from .formats import FORMATS
from .ledger import Ledger
from .loading import AtChance, load
from .registry import IMPORTERS

__all__ = ["FORMATS", "IMPORTERS", "AtChance", "Imported", "Importer", "Ledger", "Options", "Source", "load"]
