"""Planning for the AI Engine: devices, cycles, splitting of layers over tiles, links, placement, audit."""
