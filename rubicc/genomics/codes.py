"""Catalogue of what genomics can refuse: readers and engine 100-199, simulator and decoders 200-299."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-GEN-100": (
        "Nothing to read",
        "A path given as reads does not exist, or no fast5, pod5 or npz file lies under it. Check the path; "
        "subfolders are searched unless told otherwise.",
    ),
    "RUB-GEN-101": (
        "Not a file of reads",
        "By its first bytes the file is neither HDF5 (fast5) nor pod5 nor npz, whatever its name says; or it "
        "is a pipe, a device, or not readable. It is left out and counted."
        " Check that the download is complete, or leave the file out.",
    ),
    "RUB-GEN-102": (
        "Damaged file or read",
        "The file or one read in it is truncated or corrupt; the message is the library's first line. Reads "
        "before the damage, and other files, are called. Copy the file again from where it was written.",
    ),
    "RUB-GEN-103": (
        "Something a read needs is missing",
        "A group, array or attribute that turns raw samples into current (range, offset, digitisation, "
        "sampling_rate, read_id, Signal) is absent. The read is left out: without calibration its current is "
        "unknown."
        " Convert the run again with ONT's tools if the read matters.",
    ),
    "RUB-GEN-104": (
        "Impossible value in a read",
        "A calibration value or the sampling rate is zero, negative, not finite, not a number, or an array "
        "where one value belongs. The read is left out."
        " Convert the run again with ONT's tools if the read matters.",
    ),
    "RUB-GEN-105": (
        "The signal has the wrong form",
        "Raw signal is one row of 16-bit integers. This is something else (other type, other rank, a group "
        "where the data should be, or lengths that do not add up), so the read is left out."
        " Convert the run again with ONT's tools if the read matters.",
    ),
    "RUB-GEN-106": (
        "Empty signal",
        "The read has no samples. There is nothing to call; it is left out and counted."
        " Remove it from the file if the message disturbs.",
    ),
    "RUB-GEN-107": (
        "A read declares more than the limit",
        "The file declares a signal longer, or cut into more pieces, than any sequencer writes; reading it "
        "could exhaust memory, so it is refused before anything is allocated. If the read is genuine, raise "
        "Limits.max_samples.",
    ),
    "RUB-GEN-108": (
        "A link leads out of the file",
        "HDF5 files can hold links (external, soft), virtual datasets and external storage that make a "
        "reader open other files of the machine. No sequencer writes them; none is followed. The message "
        "names the target."
        " Copy the data into the file (h5repack) if you trust its source.",
    ),
    "RUB-GEN-109": (
        "Unknown HDF5 filter",
        "The signal asks for a compression filter other than gzip, shuffle, fletcher32 or VBZ, which would "
        "make HDF5 look for a plugin to load. Convert the file with ONT's tools.",
    ),
    "RUB-GEN-110": (
        "Unusable read id",
        "Read ids become names in FASTA, FASTQ and BAM: printable ASCII without spaces, at most 254 "
        "characters. This one could forge records in the output, so the read is left out."
        " Rename the read in the file if it is genuine.",
    ),
    "RUB-GEN-111": (
        "The signal is not all there",
        "The dataset declares more samples than the file stores, or stores more bytes than they can take. "
        "HDF5 would make up zeros for what is missing; the read is left out instead."
        " Copy the file again from where it was written.",
    ),
    "RUB-GEN-112": (
        "The reader crashed on this file",
        "fast5 and pod5 are parsed in a child process, because their libraries can abort on damaged files. "
        "The child died, ran out of its memory limit or fell silent. Reads before that point are called; the "
        "rest of this file is not. The file is almost certainly corrupt."
        " Copy it again from where it was written.",
    ),
    "RUB-GEN-113": (
        "Read id seen before",
        "Two reads have the same id, in one file or in several. The first that could be read is called, "
        "later ones are left out and counted. Usually a folder holds copies of a file."
        " Remove the copies to be rid of the message.",
    ),
    "RUB-GEN-114": (
        "Sampling rate differs from the model's",
        "The read was sampled at another rate than the signal the network was trained on, so a base has "
        "another number of samples and calls would be noise. Use a model for this rate.",
    ),
    "RUB-GEN-115": (
        "Flat signal",
        "More than half of the samples are equal, so the median absolute deviation is zero and the signal "
        "cannot be scaled. The pore was blocked or off; the read is left out."
        " Leave it out; if most reads are flat, check the flow cell.",
    ),
    "RUB-GEN-116": (
        "Pickled data in an npz file",
        "An array holds Python objects. Loading those runs code from the file, so it is never done."
        " Save plain arrays with numpy.savez.",
    ),
    "RUB-GEN-117": (
        "No base called",
        "The network emits no base for this read: usually noise without DNA, or a network for another "
        "chemistry. There is no record for it in the output."
        " Check that the model fits the chemistry if most reads end so.",
    ),
    "RUB-GEN-118": (
        "A file without reads",
        "The file is intact but holds no reads where single- and multi-read files keep them."
        " Check that it holds raw signal and not only basecalls.",
    ),
    "RUB-GEN-119": (
        "A read asked for was not found",
        "The id is in the list of reads to call, but none of the files has it, or only in unreadable form."
        " Check the list of ids, and that the files of the run are all given.",
    ),
    "RUB-GEN-130": (
        "The network failed",
        "The runtime raised an error on a batch. What was called so far stays in OUT.partial; running the "
        "same command again goes on from there. Out of memory: use a smaller batch or chunk.",
    ),
    "RUB-GEN-131": (
        "The network's output is wrong",
        "Its shape is not (samples / stride, batch, columns), or it holds NaN or infinity. The artefact does "
        "not fit its metadata, or overflows in low precision: run `rubicc verify`.",
    ),
    "RUB-GEN-132": (
        "The model is not described as a basecaller",
        "Its metadata lack stride, signal normalisation or decoder. Basecalling with guessed values gives "
        "wrong DNA without an error. Give the architecture when compiling (--arch).",
    ),
    "RUB-GEN-133": (
        "Impossible chunks",
        "Chunk, overlap, batch and threads must be positive, and the overlap below the chunk length. An "
        "overlap of at least the receptive field makes chunked calls equal whole-read calls."
        " Change the value that the message names.",
    ),
    "RUB-GEN-134": (
        "Unknown signal normalisation",
        "The model's metadata name a normalisation or a parameter of one that rubicc does not have. The "
        "message lists what there is."
        " Compile the model again with one of those.",
    ),
    "RUB-GEN-135": (
        "Decoder output does not fit together",
        "A decoder must give one quality and one move per base. This one did not, which is a fault of the "
        "decoder, not of the read."
        " Report it with the model.",
    ),
    "RUB-GEN-136": (
        "The run failed",
        "Something unexpected happened in one of the engine's threads; all were stopped. What was called so "
        "far stays in OUT.partial. Please report it with -vv.",
    ),
    "RUB-GEN-140": (
        "The output exists",
        "rubicc does not overwrite calls. Choose another name, move the file away, or give --force.",
    ),
    "RUB-GEN-141": (
        "OUT.partial is not an unfinished run",
        "The folder in which the output would be prepared exists and was not made by rubicc, or its journal "
        "is damaged. It is left alone, also under --force: move or remove it yourself.",
    ),
    "RUB-GEN-142": (
        "OUT.partial belongs to a different run",
        "The unfinished run there was started with another model, other reads, other settings or another "
        "version; going on would mix two runs in one file. Use what it was started with, or --force to throw "
        "it away.",
    ),
    "RUB-GEN-143": (
        "Another process writes this output",
        "OUT.partial is locked by a running process. Wait for it, or choose another output.",
    ),
    "RUB-GEN-144": (
        "Unknown output format",
        "The format follows from the name: .fasta, .fa, .fastq, .fq (each also with .gz) or .bam."
        " Rename the output so that it ends in one of these.",
    ),
    "RUB-GEN-145": (
        "The output cannot be written there",
        "Its folder does not exist or takes no files: create it, or choose another output.",
    ),
    "RUB-GEN-146": (
        "Writing the output failed",
        "The disk is full or went away. What was committed before stays in OUT.partial; make room and run "
        "the same command again.",
    ),
    "RUB-GEN-147": (
        "A file was not called by any worker",
        "What runs the files of a basecalling run on several machines ended before every file was called. "
        "Run the same command again: files that are called are not called again.",
    ),
    "RUB-GEN-150": (
        "Nothing to evaluate",
        "Calls or reference are missing, empty, or cannot be indexed by minimap2."
        " Check both paths and that both files hold sequences.",
    ),
    "RUB-GEN-151": (
        "Damaged or unknown sequence file",
        "Calls may be FASTA, FASTQ (gzip allowed) or BAM, references FASTA; this file is none of them by its "
        "content, or is cut short."
        " Check the path, and that the copy is complete.",
    ),
    "RUB-GEN-152": (
        "No reference of that name",
        "Scoring by name needs a reference sequence named as the read. Score against the best hit in the "
        "whole reference instead (--by best).",
    ),
    "RUB-GEN-201": (
        "Impossible simulated reads",
        "The simulator was asked for reads of no bases, for reads longer than the genome given, or for a "
        "genome with letters other than A, C, G, T. The message gives the lengths or the letter; mend the "
        "arguments.",
    ),
    "RUB-GEN-202": (
        "Scores are not finite",
        "The network gave NaN or infinity for a read. Nothing sensible can be decoded from that, so the "
        "read gets no call. Usually the artefact overflows in half precision: run `rubicc verify`, or "
        "compile with --precision fp32. The message counts the values and gives the first output frame.",
    ),
    "RUB-GEN-203": (
        "Scores and decoder do not fit each other",
        "The model's metadata names a decoder, an alphabet and parameters; the scores have another number "
        "of columns, another rank, or the parameters are unknown. The artefact was compiled with metadata "
        "of another network: compile again with the right --arch, or correct the metadata.",
    ),
    "RUB-GEN-204": (
        "Scores are not log-probabilities",
        "CTC decoding takes log-probabilities: exponentiated, each frame sums to one. These do not, so "
        "the network ends without a log-softmax or computes something wrong. Verify the artefact; if the "
        "network really gives logits, add the log-softmax before compiling.",
    ),
    "RUB-GEN-205": (
        "Too few bases to fit qualities",
        "Calibrating qualities compares predicted with observed errors base by base; with less than a few "
        "hundred aligned bases the fit would be noise. Give more reads with known truth, or reads of the "
        "chemistry the network was trained for.",
    ),
    "RUB-GEN-206": (
        "Demo network not good enough",
        "After training, the demo network calls held-out simulated reads below 0.90 identity, so its files "
        "were not written. Train for more steps; if that does not help, the simulator or the network was "
        "changed.",
    ),
}
