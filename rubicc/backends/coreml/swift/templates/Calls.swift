import Foundation

/// Network output of a read: `columns` values a frame, frame after frame.
public struct Scores: Sendable {
    public var values: [Float]
    public let columns: Int

    public init(values: [Float], columns: Int) {
        self.values = values
        self.columns = columns
    }

    public var frames: Int { values.count / columns }

    func slice(_ from: Int, _ to: Int) -> Scores {
        Scores(values: Array(values[from * columns..<to * columns]), columns: columns)
    }
}

/// A path through the scores: a move for each frame, and the code and error probability of each base.
struct BasePath {
    let moves: [UInt8]
    let codes: [Int]
    let errors: [Double]
}

/// A called read. `moves` has one value a frame, 1 where a base begins; `qualities` are phred characters.
public struct Call: Equatable, Sendable {
    public let sequence: String
    public let qualities: String
    public let moves: [UInt8]
    public let meanQuality: Double
}

/// Scores to a call, in the way the model was trained for.
public struct ReadDecoder: Sendable {
    let find: @Sendable (Scores) throws -> BasePath
    let letters: String
    let qualityScale: Double
    let qualityBias: Double

    func call(_ scores: Scores) throws -> Call {
        let path = try find(scores)
        let phred = Calls.phred(Calls.smooth(path.errors), qualityScale, qualityBias)
        return Call(
            sequence: Calls.text(path.codes, letters), qualities: Calls.characters(phred), moves: path.moves,
            meanQuality: Calls.mean(phred))
    }

    /// The call of a read of any length: long ones in segments, each with some of its neighbours' frames, so
    /// that memory does not grow with the read.
    public func decode(_ scores: Scores) throws -> Call {
        try Calls.finite(scores)
        let step = Calls.segment(scores.columns)
        var sequence = ""
        var qualities = ""
        var moves: [UInt8] = []
        var cut = 0
        while true {
            let end = scores.frames - cut > step ? cut + step : scores.frames
            let start = max(0, cut - Calls.context)
            let stop = min(end + Calls.context, scores.frames)
            let call = try self.call(scores.slice(start, stop))
            if cut == 0 && end == scores.frames { return call }
            let before = Calls.moved(call.moves, cut - start)
            let upto = Calls.moved(call.moves, end - start)
            sequence += Calls.between(call.sequence, before, upto)
            qualities += Calls.between(call.qualities, before, upto)
            moves += call.moves[cut - start..<end - start]
            if end == scores.frames { break }
            cut = end
        }
        let mean = Calls.mean(Calls.values(qualities))
        return Call(sequence: sequence, qualities: qualities, moves: moves, meanQuality: mean)
    }
}

/// From posterior masses and a path to bases with qualities.
enum Calls {
    static let stay = -1
    static let segmentFrames = 65536
    static let segmentValues = 33_554_432
    static let context = 1024
    static let weightRange: Float = 80
    static let floor = 1e-8
    static let least = 1e-9
    static let leastError = 1e-5
    static let leastQuality = 1.0
    static let mostQuality = 50.0
    static let neighbours = [0.1, 0.2, 0.4, 0.2, 0.1]

    /// Frames decoded at once.
    static func segment(_ columns: Int) -> Int {
        max(4 * context, min(segmentFrames, segmentValues / max(1, columns)))
    }

    static func finite(_ scores: Scores) throws {
        for value in scores.values where !value.isFinite {
            throw ModelError.scoresRefused("a score is NaN or infinite")
        }
    }

    /// exp(score - largest): positive weights whose common factor in a frame does not matter. Scores more than
    /// `weightRange` below the largest of their frame count as that far below.
    static func weights(_ scores: Scores) -> [Float] {
        var weights = scores.values
        for frame in 0..<scores.frames {
            let first = frame * scores.columns
            var top = weights[first]
            for place in first..<first + scores.columns { top = max(top, weights[place]) }
            for place in first..<first + scores.columns {
                weights[place] -= top
                weights[place] = exp(max(weights[place], -weightRange))
            }
        }
        return weights
    }

    /// Bases and errors of a path: the frames nearer to a base's emission than to its neighbours' are its window,
    /// and its error is the share of other bases in the mass of its window. `mass` has four values a frame.
    static func path(_ mass: [Float], _ emitted: [Int]) -> BasePath {
        var when: [Int] = []
        for frame in 0..<emitted.count where emitted[frame] != stay { when.append(frame) }
        var codes: [Int] = []
        var errors: [Double] = []
        for place in 0..<when.count {
            let code = emitted[when[place]]
            let first = place == 0 ? 0 : (when[place - 1] + when[place]) / 2 + 1
            let last = place == when.count - 1 ? emitted.count - 1 : (when[place] + when[place + 1]) / 2
            var total = least
            var own = 0.0
            for frame in first..<last + 1 {
                own += Double(mass[frame * 4 + code])
                for base in 0..<4 { total += Double(mass[frame * 4 + base]) }
            }
            codes.append(code)
            errors.append(min(1.0, max(0.0, 1.0 - own / total)))
        }
        let moves = emitted.map { $0 == stay ? UInt8(0) : UInt8(1) }
        return BasePath(moves: moves, codes: codes, errors: errors)
    }

    /// Errors averaged over five bases, ends repeated.
    static func smooth(_ errors: [Double]) -> [Double] {
        var out: [Double] = []
        for place in 0..<errors.count {
            var sum = 0.0
            for near in 0..<5 {
                sum += neighbours[near] * errors[min(max(place + near - 2, 0), errors.count - 1)]
            }
            out.append(sum)
        }
        return out
    }

    /// Calibrated phred values of error probabilities.
    static func phred(_ errors: [Double], _ scale: Double, _ bias: Double) -> [Double] {
        errors.map { error in
            let raw = -10.0 * log10(min(max(error, leastError), 1.0))
            return min(max(scale * raw + bias, leastQuality), mostQuality)
        }
    }

    /// Phred of the mean error probability; 0 for an empty call.
    static func mean(_ phred: [Double]) -> Double {
        if phred.isEmpty { return 0.0 }
        var sum = 0.0
        for quality in phred { sum += pow(10.0, -quality / 10.0) }
        return -10.0 * log10(sum / Double(phred.count))
    }

    static func text(_ codes: [Int], _ letters: String) -> String {
        let table = Array(letters)
        return String(codes.map { table[$0] })
    }

    static func characters(_ phred: [Double]) -> String {
        var text = String.UnicodeScalarView()
        for quality in phred { text.append(Unicode.Scalar(UInt8(quality.rounded(.toNearestOrEven)) + 33)) }
        return String(text)
    }

    static func values(_ qualities: String) -> [Double] {
        qualities.unicodeScalars.map { Double($0.value) - 33.0 }
    }

    /// Bases that begin in the first `frames` frames.
    static func moved(_ moves: [UInt8], _ frames: Int) -> Int {
        var count = 0
        for frame in 0..<frames where moves[frame] == 1 { count += 1 }
        return count
    }

    static func between(_ text: String, _ from: Int, _ to: Int) -> String {
        String(Array(text)[from..<to])
    }
}
