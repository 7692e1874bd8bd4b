"""SAM, the methods that adapt it and their parts, and the detector. Imports no Ray."""
