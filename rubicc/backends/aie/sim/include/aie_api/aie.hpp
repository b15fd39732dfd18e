// The subset of AMD's AI Engine API that rubicc's functional emulation models. Written from the public API guide
// (names and where they are described: names.json); none of AMD's code is in it.
#pragma once

#include "../rubicc_sim/elementary.h"
#include "../rubicc_sim/mmul.h"
