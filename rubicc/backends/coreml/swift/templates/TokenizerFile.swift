import Foundation

/// The parts of a Hugging Face tokenizer.json that decide the ids of a text.
public struct TokenizerFile: Decodable, Sendable {
    let model: BytePairs
    let addedTokens: [AddedToken]?
    let normalizer: Step?
    let preTokenizer: Step?
    let postProcessor: PostProcessor?
    let padding: Padding?

    enum CodingKeys: String, CodingKey {
        case model, normalizer, padding
        case addedTokens = "added_tokens"
        case preTokenizer = "pre_tokenizer"
        case postProcessor = "post_processor"
    }

    struct BytePairs: Decodable, Sendable {
        let type: String?
        let vocab: [String: Int32]
        let merges: [Pair]
        let dropout: Double?
        let unknown: String?
        let fuseUnknown: Bool?
        let prefix: String?
        let suffix: String?
        let byteFallback: Bool?
        let ignoreMerges: Bool?

        enum CodingKeys: String, CodingKey {
            case type, vocab, merges, dropout
            case unknown = "unk_token"
            case fuseUnknown = "fuse_unk"
            case prefix = "continuing_subword_prefix"
            case suffix = "end_of_word_suffix"
            case byteFallback = "byte_fallback"
            case ignoreMerges = "ignore_merges"
        }
    }

    /// Two tokens that become one: `"A C"` in older files, `["A", "C"]` in newer ones.
    struct Pair: Decodable, Sendable {
        let left: String
        let right: String

        init(from decoder: Decoder) throws {
            if var list = try? decoder.unkeyedContainer() {
                left = try list.decode(String.self)
                right = try list.decode(String.self)
                return
            }
            let text = try decoder.singleValueContainer().decode(String.self)
            let parts = text.unicodeScalars.split(separator: " ", omittingEmptySubsequences: false)
            guard parts.count == 2 else {
                throw ModelError.tokenizerRefused("a merge is not two tokens: \(text)")
            }
            left = String(parts[0])
            right = String(parts[1])
        }
    }

    struct AddedToken: Decodable, Sendable {
        let id: Int32
        let content: String
        let singleWord: Bool?
        let lstrip: Bool?
        let rstrip: Bool?
        let normalized: Bool?

        enum CodingKeys: String, CodingKey {
            case id, content, lstrip, rstrip, normalized
            case singleWord = "single_word"
        }
    }

    /// A normalizer or pre-tokenizer, or a sequence of them.
    struct Step: Decodable, Sendable {
        let type: String
        let normalizers: [Step]?
        let pretokenizers: [Step]?

        /// Types of the steps in order, sequences opened.
        var types: [String] {
            type == "Sequence" ? ((normalizers ?? []) + (pretokenizers ?? [])).flatMap { $0.types } : [type]
        }
    }

    struct PostProcessor: Decodable, Sendable {
        let type: String
        let single: [Piece]?
        let specialTokens: [String: SpecialToken]?
        let cls: NamedToken?
        let sep: NamedToken?

        enum CodingKeys: String, CodingKey {
            case type, single, cls, sep
            case specialTokens = "special_tokens"
        }
    }

    struct Piece: Decodable, Sendable {
        let special: Name?
        let sequence: Name?

        enum CodingKeys: String, CodingKey {
            case special = "SpecialToken"
            case sequence = "Sequence"
        }
    }

    struct Name: Decodable, Sendable {
        let id: String
    }

    struct SpecialToken: Decodable, Sendable {
        let ids: [Int32]
    }

    /// `["[CLS]", 1]`
    struct NamedToken: Decodable, Sendable {
        let id: Int32

        init(from decoder: Decoder) throws {
            var list = try decoder.unkeyedContainer()
            _ = try list.decode(String.self)
            id = try list.decode(Int32.self)
        }
    }

    struct Padding: Decodable, Sendable {
        let id: Int32

        enum CodingKeys: String, CodingKey {
            case id = "pad_id"
        }
    }
}
