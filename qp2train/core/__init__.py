"""The nouns that travel between rooms: plain data over numpy, pandas and shapely."""
