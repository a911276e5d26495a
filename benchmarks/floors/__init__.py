"""The floors: programs written by hand, as fast as they can be, that the library is measured against."""
