"""Parts of the Core ML tables: networks with real inputs, measured compilations, rendering."""
