// The subset of AMD's ADF that rubicc's functional emulation models. Written from the public guides UG1079 and UG1603
// (names and where they are described: names.json); none of AMD's code is in it.
#pragma once

#include "rubicc_sim/graph.h"
