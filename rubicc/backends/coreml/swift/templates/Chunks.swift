/// How reads are cut: lengths in samples, multiples of the stride, the overlap of twice the stride.
public struct Plan: Sendable {
    public let length: Int
    public let overlap: Int
    public let stride: Int
    /// Whether the model takes windows of `length` only; shorter reads are then padded with zeros.
    public let fixed: Bool
}

/// Samples from `start` of a read, and the frames of the read that are taken from this window.
public struct Cut: Equatable, Sendable {
    public let start: Int
    public let length: Int
    public let from: Int
    public let to: Int
}

/// Cutting a read into overlapping windows and joining the network's frames again. All cuts lie on the stride;
/// neighbours are joined in the middle of what they share, and the last window ends with the read.
public enum Chunks {
    static func cuts(samples: Int, plan: Plan) -> [Cut] {
        let frames = (samples + plan.stride - 1) / plan.stride
        let padded = frames * plan.stride
        if padded <= plan.length {
            return [Cut(start: 0, length: plan.fixed ? plan.length : padded, from: 0, to: frames)]
        }
        let last = padded - plan.length
        var starts: [Int] = []
        var start = 0
        while start < last {
            starts.append(start)
            start += plan.length - plan.overlap
        }
        starts.append(last)
        var cuts: [Cut] = []
        var from = 0
        for place in 0..<starts.count {
            var to = frames
            if place + 1 < starts.count {
                to = (starts[place] + plan.length + starts[place + 1]) / (2 * plan.stride)
            }
            cuts.append(Cut(start: starts[place], length: plan.length, from: from, to: to))
            from = to
        }
        return cuts
    }

    /// The window's samples, and zeros after the end of the read.
    static func fill(_ signal: [Float], _ cut: Cut) -> [Float] {
        let end = min(cut.start + cut.length, signal.count)
        var row = Array(signal[cut.start..<end])
        while row.count < cut.length { row.append(0) }
        return row
    }

    /// Of one window's scores, `columns` a frame, the frames that go into the read.
    static func kept(_ scores: [Float], _ cut: Cut, columns: Int, stride: Int) -> [Float] {
        let first = cut.start / stride
        return Array(scores[(cut.from - first) * columns..<(cut.to - first) * columns])
    }
}
