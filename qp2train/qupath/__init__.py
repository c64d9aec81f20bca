"""QuPath's files, in and out, without Java: projects, .qpdata and GeoJSON."""
