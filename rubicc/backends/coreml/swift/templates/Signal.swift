import Foundation

/// One read as it came from the digitiser: picoampere = (sample + offset) * scale.
public struct RawRead: Sendable {
    public let samples: [Int16]
    public let offset: Double
    public let scale: Double
    /// Samples a second.
    public let samplingRate: Double

    public init(samples: [Int16], offset: Double, scale: Double, samplingRate: Double) {
        self.samples = samples
        self.offset = offset
        self.scale = scale
        self.samplingRate = samplingRate
    }
}

/// x = (picoampere - shift) / scale
public struct Scaling: Equatable, Sendable {
    public let shift: Double
    public let scale: Double
}

/// How the model wants its signal.
public enum Normalisation: Sendable {
    case medianDeviation
    case quantile(lower: Double, upper: Double, shift: Double, scale: Double)
    case picoampere(mean: Double, deviation: Double)
    case none
}

/// Sorted distinct values with their counts: exact order statistics of a signal in linear time.
struct Histogram {
    let values: [Double]
    let counts: [Int]
    let total: Int

    init(_ samples: [Int16]) {
        var all = [Int](repeating: 0, count: 65536)
        for sample in samples { all[Int(sample) + 32768] += 1 }
        var values: [Double] = []
        var counts: [Int] = []
        for code in 0..<65536 where all[code] > 0 {
            values.append(Double(code - 32768))
            counts.append(all[code])
        }
        self.values = values
        self.counts = counts
        total = samples.count
    }

    init(values: [Double], counts: [Int], total: Int) {
        self.values = values
        self.counts = counts
        self.total = total
    }

    /// Quantile `q`, interpolated between neighbours in order.
    func quantile(_ q: Double) -> Double {
        let position = Double(total - 1) * q
        let below = Int(position)
        let low = ranked(below)
        let high = ranked(min(below + 1, total - 1))
        return low + (high - low) * (position - Double(below))
    }

    /// The value at place `rank` of the sorted signal.
    func ranked(_ rank: Int) -> Double {
        var seen = 0
        for place in 0..<values.count {
            seen += counts[place]
            if seen > rank { return values[place] }
        }
        return values[values.count - 1]
    }

    /// Median of |x - centre|.
    func deviation(_ centre: Double) -> Double {
        let distances = values.map { abs($0 - centre) }
        let order = distances.indices.sorted { distances[$0] < distances[$1] }
        let sorted = Histogram(
            values: order.map { distances[$0] }, counts: order.map { counts[$0] }, total: total)
        return sorted.quantile(0.5)
    }
}

/// From raw samples to what the network reads.
public enum Signal {
    static let deviationScale = 1.4826
    static let rateTolerance = 0.001
    static let leastShift = 10.0
    static let leastScale = 1.0

    /// Network input of a read.
    public static func normalise(_ read: RawRead, _ way: Normalisation, samplingRate: Double) throws -> [Float] {
        if read.samples.isEmpty { throw ModelError.signalRefused("the read has no samples") }
        if abs(read.samplingRate - samplingRate) > rateTolerance * samplingRate {
            throw ModelError.signalRefused("the model reads \(samplingRate) samples a second")
        }
        return apply(read, try scaling(read, way))
    }

    /// Shift and scale of a read in picoampere.
    static func scaling(_ read: RawRead, _ way: Normalisation) throws -> Scaling {
        switch way {
        case .none:
            return Scaling(shift: 0, scale: 1)
        case .picoampere(let mean, let deviation):
            return Scaling(shift: mean, scale: deviation)
        case .quantile(let lower, let upper, let shift, let scale):
            let histogram = Histogram(read.samples)
            let low = (histogram.quantile(lower) + read.offset) * read.scale
            let high = (histogram.quantile(upper) + read.offset) * read.scale
            return Scaling(
                shift: max(leastShift, shift * (low + high)), scale: max(leastScale, scale * (high - low)))
        case .medianDeviation:
            let histogram = Histogram(read.samples)
            let median = histogram.quantile(0.5)
            let deviation = histogram.deviation(median)
            if deviation == 0 { throw ModelError.signalRefused("more than half the samples are equal") }
            return Scaling(
                shift: (median + read.offset) * read.scale, scale: deviationScale * deviation * read.scale)
        }
    }

    static func apply(_ read: RawRead, _ scaling: Scaling) -> [Float] {
        let centre = Float(scaling.shift / read.scale - read.offset)
        let gain = Float(read.scale / scaling.scale)
        return read.samples.map { (Float($0) - centre) * gain }
    }
}
