/// bonito's linear-chain CRF: posteriors by forward-backward, then the best path over posterior + floor.
///
/// A state is the last bases, oldest most significant. State j is entered by five transitions, j * 5 + k: k = 0
/// stays and emits nothing, k = 1 + m comes from m * states / 4 + j / 4 and emits base j % 4.
enum CRF {
    static let edges = 5

    static func decode(_ scores: Scores, states: Int, blank: Float) throws -> BasePath {
        let full = try withStays(scores, states, blank)
        var weights = Calls.weights(full)
        posteriors(&weights, states)
        let taken = viterbi(weights, states)
        return Calls.path(mass(weights, states), emitted(taken))
    }

    /// Scores with a column of `blank` before each four, where the network leaves the stays out.
    static func withStays(_ scores: Scores, _ states: Int, _ blank: Float) throws -> Scores {
        if scores.columns == edges * states { return scores }
        if scores.columns != 4 * states {
            throw ModelError.scoresRefused("\(scores.columns) columns for \(states) states")
        }
        var full: [Float] = []
        full.reserveCapacity(scores.frames * edges * states)
        for place in 0..<scores.values.count {
            if place % 4 == 0 { full.append(blank) }
            full.append(scores.values[place])
        }
        return Scores(values: full, columns: edges * states)
    }

    /// Replaces weights by the posterior probabilities of the transitions.
    static func posteriors(_ w: inout [Float], _ states: Int) {
        let steps = w.count / (5 * states)
        let quarter = states / 4
        var alpha = [Double](repeating: 1.0 / Double(states), count: (steps + 1) * states)
        for t in 0..<steps {
            let a = t * states
            var total = 0.0
            for j in 0..<states {
                let e = (a + j) * 5
                var value = alpha[a + j] * Double(w[e])
                for m in 0..<4 { value += alpha[a + m * quarter + j / 4] * Double(w[e + 1 + m]) }
                alpha[a + states + j] = value
                total += value
            }
            for j in 0..<states { alpha[a + states + j] /= total }
        }
        var beta = [Double](repeating: 1, count: states)
        for t in (0..<steps).reversed() {
            let a = t * states
            var new = [Double](repeating: 0, count: states)
            var edge = [Double](repeating: 0, count: states * 5)
            var total = 0.0
            for j in 0..<states {
                let e = (a + j) * 5
                let stay = Double(w[e]) * beta[j]
                new[j] += stay
                edge[j * 5] = stay * alpha[a + j]
                total += edge[j * 5]
                for m in 0..<4 {
                    let came = m * quarter + j / 4
                    let onward = Double(w[e + 1 + m]) * beta[j]
                    new[came] += onward
                    edge[j * 5 + 1 + m] = onward * alpha[a + came]
                    total += edge[j * 5 + 1 + m]
                }
            }
            var sum = 0.0
            for j in 0..<states { sum += new[j] }
            for k in 0..<states * 5 { w[a * 5 + k] = Float(edge[k] / total) }
            for j in 0..<states { beta[j] = new[j] * Double(states) / sum }
        }
    }

    /// The transition taken at each step, j * 5 + k.
    static func viterbi(_ p: [Float], _ states: Int) -> [Int] {
        let steps = p.count / (5 * states)
        let quarter = states / 4
        var source = [UInt8](repeating: 0, count: steps * states)
        var best = [Double](repeating: 1, count: states)
        var new = [Double](repeating: 0, count: states)
        for t in 0..<steps {
            var top = 0.0
            for j in 0..<states {
                let e = (t * states + j) * 5
                var value = best[j] * (Double(p[e]) + Calls.floor)
                var edge = 0
                for m in 0..<4 {
                    let candidate = best[m * quarter + j / 4] * (Double(p[e + 1 + m]) + Calls.floor)
                    if candidate > value {
                        value = candidate
                        edge = 1 + m
                    }
                }
                new[j] = value
                source[t * states + j] = UInt8(edge)
                top = max(top, value)
            }
            for j in 0..<states { best[j] = new[j] / top }
        }
        var state = 0
        for j in 0..<states where best[j] > best[state] { state = j }
        var taken = [Int](repeating: 0, count: steps)
        for t in (0..<steps).reversed() {
            let edge = Int(source[t * states + state])
            taken[t] = state * 5 + edge
            if edge > 0 { state = (edge - 1) * quarter + state / 4 }
        }
        return taken
    }

    /// Posterior mass of emitting each base at each step, four values a step.
    static func mass(_ p: [Float], _ states: Int) -> [Float] {
        let steps = p.count / (5 * states)
        var mass = [Float](repeating: 0, count: steps * 4)
        for t in 0..<steps {
            for j in 0..<states {
                let e = (t * states + j) * 5
                for m in 1..<5 { mass[t * 4 + j % 4] += p[e + m] }
            }
        }
        return mass
    }

    /// The base that the path emits at each step.
    static func emitted(_ taken: [Int]) -> [Int] {
        taken.map { $0 % 5 > 0 ? $0 / 5 % 4 : Calls.stay }
    }
}
