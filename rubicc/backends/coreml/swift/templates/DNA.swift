import Foundation

/// What one does with sequences before a model reads them.
public enum DNA {
    static let letters = "ACGTURYKMBVDHNSWacgturykmbvdhnsw"
    static let partners = "TGCAAYRMKVBHDNSWtgcaayrmkvbhdnsw"

    /// The other strand, read in its own direction. IUPAC codes are complemented, case is kept, anything else
    /// stays as it is; U pairs with A.
    public static func reverseComplement(_ sequence: String) -> String {
        var pairs: [Unicode.Scalar: Unicode.Scalar] = [:]
        for (letter, partner) in zip(letters.unicodeScalars, partners.unicodeScalars) {
            pairs[letter] = partner
        }
        var other = String.UnicodeScalarView()
        for letter in sequence.unicodeScalars.reversed() {
            other.append(pairs[letter] ?? letter)
        }
        return String(other)
    }
}
