/// Flip-flop decoding: posteriors by forward-backward, then the best path over posterior + floor.
///
/// States 0-3 are flip A, C, G, T and 4-7 flop. Of the 40 transitions, b * 8 + s goes from state s to flip b,
/// 32 + b from flip b to flop b, 36 + b stays in flop b. Paths start in a flip; a change of state emits a base.
enum FlipFlop {
    static let transitions = 40

    static func decode(_ scores: Scores) throws -> BasePath {
        if scores.columns != transitions {
            throw ModelError.scoresRefused("\(scores.columns) columns, not \(transitions)")
        }
        var weights = Calls.weights(scores)
        posteriors(&weights)
        let states = viterbi(weights)
        return Calls.path(mass(weights), emitted(states))
    }

    /// Replaces weights by the posterior probabilities of the transitions.
    static func posteriors(_ w: inout [Float]) {
        let steps = w.count / 40
        var alpha = [Double](repeating: 0, count: (steps + 1) * 8)
        for s in 0..<4 { alpha[s] = 0.25 }
        for t in 0..<steps {
            let a = t * 8
            let e = t * 40
            var total = 0.0
            for b in 0..<4 {
                var flip = 0.0
                for s in 0..<8 { flip += alpha[a + s] * Double(w[e + b * 8 + s]) }
                let entered = alpha[a + b] * Double(w[e + 32 + b])
                let stayed = alpha[a + 4 + b] * Double(w[e + 36 + b])
                alpha[a + 8 + b] = flip
                alpha[a + 12 + b] = entered + stayed
                total += flip + (entered + stayed)
            }
            for s in 0..<8 { alpha[a + 8 + s] /= total }
        }
        var beta = [Double](repeating: 1, count: 8)
        var new = [Double](repeating: 0, count: 8)
        var edge = [Double](repeating: 0, count: 40)
        for t in (0..<steps).reversed() {
            let a = t * 8
            let e = t * 40
            for s in 0..<4 {
                new[s] = Double(w[e + 32 + s]) * beta[4 + s]
                new[4 + s] = Double(w[e + 36 + s]) * beta[4 + s]
                edge[32 + s] = new[s] * alpha[a + s]
                edge[36 + s] = new[4 + s] * alpha[a + 4 + s]
            }
            for b in 0..<4 {
                for s in 0..<8 {
                    let onward = Double(w[e + b * 8 + s]) * beta[b]
                    new[s] += onward
                    edge[b * 8 + s] = onward * alpha[a + s]
                }
            }
            var total = 0.0
            for k in 0..<40 { total += edge[k] }
            for k in 0..<40 { w[e + k] = Float(edge[k] / total) }
            var sum = 0.0
            for s in 0..<8 { sum += new[s] }
            for s in 0..<8 { beta[s] = new[s] * 8.0 / sum }
        }
    }

    /// States before and after each step of the path with the largest product.
    static func viterbi(_ p: [Float]) -> [Int] {
        let steps = p.count / 40
        var source = [Int](repeating: 0, count: steps * 8)
        var best = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
        var new = [Double](repeating: 0, count: 8)
        for t in 0..<steps {
            let e = t * 40
            var top = 0.0
            for b in 0..<4 {
                var value = -1.0
                var came = 0
                for s in 0..<8 {
                    let candidate = best[s] * (Double(p[e + b * 8 + s]) + Calls.floor)
                    if candidate > value {
                        value = candidate
                        came = s
                    }
                }
                let entered = best[b] * (Double(p[e + 32 + b]) + Calls.floor)
                let stayed = best[4 + b] * (Double(p[e + 36 + b]) + Calls.floor)
                new[b] = value
                new[4 + b] = max(entered, stayed)
                source[t * 8 + b] = came
                source[t * 8 + 4 + b] = entered >= stayed ? b : 4 + b
                top = max(top, max(value, new[4 + b]))
            }
            for s in 0..<8 { best[s] = new[s] / top }
        }
        var states = [Int](repeating: 0, count: steps + 1)
        for s in 0..<8 where best[s] > best[states[steps]] { states[steps] = s }
        for t in (0..<steps).reversed() { states[t] = source[t * 8 + states[t + 1]] }
        return states
    }

    /// Posterior mass of entering each base at each step, four values a step.
    static func mass(_ p: [Float]) -> [Float] {
        let steps = p.count / 40
        var mass = [Float](repeating: 0, count: steps * 4)
        for t in 0..<steps {
            for b in 0..<4 {
                let e = t * 40 + b * 8
                var value = Double(p[t * 40 + 32 + b]) - Double(p[e + b])
                for s in 0..<8 { value += Double(p[e + s]) }
                mass[t * 4 + b] = Float(max(value, 0.0))
            }
        }
        return mass
    }

    /// The base that the path enters at each step.
    static func emitted(_ states: [Int]) -> [Int] {
        var emitted: [Int] = []
        for t in 0..<states.count - 1 {
            emitted.append(states[t + 1] != states[t] ? states[t + 1] % 4 : Calls.stay)
        }
        return emitted
    }
}
