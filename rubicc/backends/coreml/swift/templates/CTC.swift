import Foundation

/// Greedy CTC decoding: the most probable label of each frame, repeats merged, blanks dropped. Blank first.
enum CTC {
    static let most: Float = 20
    static let tolerance = 0.1

    static func decode(_ scores: Scores) throws -> BasePath {
        let columns = scores.columns
        let probabilities = try self.probabilities(scores)
        var moves: [UInt8] = []
        var labels: [Int] = []
        var errors: [Double] = []
        var last = 0
        for frame in 0..<scores.frames {
            var best = 0
            for label in 0..<columns
            where scores.values[frame * columns + label] > scores.values[frame * columns + best] { best = label }
            let begins = best > 0 && best != last
            moves.append(begins ? 1 : 0)
            if begins {
                labels.append(best)
                errors.append(1.0)
            }
            last = best
            if labels.isEmpty { continue }
            let own = Double(probabilities[frame * columns + labels[labels.count - 1]])
            errors[errors.count - 1] = min(errors[errors.count - 1], max(0.0, 1.0 - own))
        }
        return BasePath(moves: moves, codes: labels.map { $0 - 1 }, errors: errors)
    }

    /// Probabilities of log-probabilities; frames must sum to about 1.
    static func probabilities(_ scores: Scores) throws -> [Float] {
        let probabilities = scores.values.map { exp(min($0, most)) }
        for frame in 0..<scores.frames {
            var sum = 0.0
            for label in 0..<scores.columns { sum += Double(probabilities[frame * scores.columns + label]) }
            if abs(sum - 1.0) >= tolerance {
                throw ModelError.scoresRefused("probabilities of a frame sum to \(sum)")
            }
        }
        return probabilities
    }
}
