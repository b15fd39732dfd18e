// What Python hands over: plain structs of numbers and pointers, filled by engine.py from a lowered program.
// Field order and types are mirrored there; rb_layout() lets it check that both sides agree.
#pragma once

#include <cstdint>

namespace rubicc {

enum Kind : int32_t { F32 = 0, BF16 = 1, U8 = 2 };
enum Op : int32_t { CONV = 0, RECURRENT = 1, ELEMENTWISE = 2, GATHER = 3, LOG_SOFTMAX = 4 };
enum Function : int32_t { RELU = 0, SILU = 1, TANH = 2, SIGMOID = 3, GELU = 4, CLIP = 5, AFFINE = 6 };
constexpr int MAX_ACTIVATIONS = 6;

inline int size_of(int32_t kind) { return kind == F32 ? 4 : kind == BF16 ? 2 : 1; }

struct BufferSpec {
    int32_t channels, kind;
    int32_t pad_before, pad_after;  // frames of real zero that convolutions read around the value
    int32_t slot;                   // piece of memory it lives in
    int32_t sequence;               // [frame][item][channel] instead of [channel / 16][frame][16]
    int32_t zero_point, reserved;
    double scale;
};

struct Activation {
    int32_t function, reserved;
    double a, b;
};

struct StepSpec {
    int32_t op, x, y, add;  // add = -1: none
    // CONV: `vectors` of 16 lanes per panel; a lane is a channel of one of `phases` output frames.
    int32_t compute, phases, vectors, panels;
    int32_t panels_per_group, channels_out, group_out, words;
    int32_t stride, pad, taps_first, requantise;  // requantise: round the sum itself (output_quant) first
    int32_t zero_y, activations;
    int32_t output_zero, reserved;
    double output_scale;
    Activation functions[MAX_ACTIVATIONS];
    const char *weights;          // panels x words x vectors x 64 bytes
    const int32_t *word_frame;    // words: frames after the panel's first input frame
    const int32_t *word_channel;  // words: channels after the panel's first input channel
    const int32_t *panel_channel; // panels: first input channel
    const double *scale;          // panels x vectors x 16
    const double *bias;           // panels x vectors x 16
    const int32_t *index;         // GATHER: channels
    const void *recurrent;        // RECURRENT: RnnStep
    double constant;              // GATHER
};

struct ProgramSpec {
    const BufferSpec *buffers;
    const StepSpec *steps;
    int32_t n_buffers, n_steps, n_slots, input, output, layout_nct, recurrent, reserved;
};

}  // namespace rubicc
