import Foundation

/// Byte-pair encoding as Hugging Face `tokenizers` does it, from the model's own tokenizer.json.
///
/// What it cannot do exactly it refuses when it is made, with the reason. Lower-case bases are letters of their
/// own: a model that never saw them reads them as unknown, so upper-case soft-masked sequence first.
public struct Tokenizer: Sendable {
    /// Token ids, and the Unicode scalar of the text at which each begins (-1: added by the template).
    public struct Encoding: Equatable, Sendable {
        public var ids: [Int32] = []
        public var starts: [Int] = []
    }

    /// Tokens of one prediction, padded to a fixed length; `mask` is 1 for tokens and 0 for padding.
    public struct Window: Equatable, Sendable {
        public let ids: [Int32]
        public let mask: [Float]
        public let starts: [Int]
    }

    struct Match: Equatable {
        let from: Int
        let to: Int
        let id: Int32?
    }

    struct Added: Sendable {
        let letters: [UInt32]
        let id: Int32
    }

    static let padNames = ["[PAD]", "<pad>"]
    // The code points of Unicode's White_Space property.
    static let spaces: Set<UInt32> = [
        0x9, 0xA, 0xB, 0xC, 0xD, 0x20, 0x85, 0xA0, 0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006,
        0x2007, 0x2008, 0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000,
    ]

    let letters: [UInt32: Int32]
    let ranks: [Int: Int]
    let made: [Int32]
    let unknown: Int32?
    let fuseUnknown: Bool
    let rawTokens: [UInt32: [Added]]
    let normalTokens: [UInt32: [Added]]
    let lowercase: Bool
    let splitsSpaces: Bool
    let splitsWords: Bool
    let before: [Int32]
    let after: [Int32]
    /// Id of padding, where the file or the model's configuration says one.
    public let pad: Int32?

    public init(contentsOf url: URL, pad: Int32? = nil) throws {
        let file: TokenizerFile
        do {
            file = try JSONDecoder().decode(TokenizerFile.self, from: Data(contentsOf: url))
        } catch let error as ModelError {
            throw error
        } catch {
            throw ModelError.tokenizerRefused("\(error)")
        }
        try self.init(file, pad: pad)
    }

    public init(_ file: TokenizerFile, pad: Int32? = nil) throws {
        let model = file.model
        try Self.check(model)
        var letters: [UInt32: Int32] = [:]
        for (token, id) in model.vocab {
            let scalars = Self.scalars(token)
            if scalars.count == 1 { letters[scalars[0]] = id }
        }
        var ranks: [Int: Int] = [:]
        var made: [Int32] = []
        for pair in model.merges {
            guard let left = model.vocab[pair.left], let right = model.vocab[pair.right],
                let whole = model.vocab[pair.left + pair.right]
            else { throw ModelError.tokenizerRefused("a merge is of tokens outside the vocabulary") }
            ranks[Self.key(left, right)] = made.count
            made.append(whole)
        }
        self.letters = letters
        self.ranks = ranks
        self.made = made
        var unknown: Int32?
        if let name = model.unknown {
            unknown = model.vocab[name]
            if unknown == nil { throw ModelError.tokenizerRefused("\(name) is outside the vocabulary") }
        }
        self.unknown = unknown
        fuseUnknown = model.fuseUnknown ?? false
        let normal = (file.normalizer?.types ?? [])
        for type in normal where type != "Lowercase" {
            throw ModelError.tokenizerRefused("normalizer \(type)")
        }
        lowercase = !normal.isEmpty
        let splitting = (file.preTokenizer?.types ?? [])
        for type in splitting where type != "Whitespace" && type != "WhitespaceSplit" {
            throw ModelError.tokenizerRefused("pre-tokenizer \(type)")
        }
        splitsSpaces = !splitting.isEmpty
        splitsWords = splitting.contains("Whitespace")
        let added = file.addedTokens ?? []
        rawTokens = try Self.table(added, normalized: false, lowercase: lowercase)
        normalTokens = try Self.table(added, normalized: true, lowercase: lowercase)
        let frame = try Self.frame(file.postProcessor)
        before = frame.before
        after = frame.after
        self.pad = Self.padding(file) ?? pad
    }

    static func check(_ model: TokenizerFile.BytePairs) throws {
        if let type = model.type, type != "BPE" { throw ModelError.tokenizerRefused("model \(type)") }
        if let dropout = model.dropout, dropout != 0 { throw ModelError.tokenizerRefused("dropout is random") }
        if let prefix = model.prefix, !prefix.isEmpty { throw ModelError.tokenizerRefused("prefixes in words") }
        if let suffix = model.suffix, !suffix.isEmpty { throw ModelError.tokenizerRefused("suffixes of words") }
        if model.byteFallback ?? false { throw ModelError.tokenizerRefused("byte fallback") }
        if model.ignoreMerges ?? false { throw ModelError.tokenizerRefused("ignore_merges") }
    }

    /// Added tokens by their first letter, longest first.
    static func table(_ added: [TokenizerFile.AddedToken], normalized: Bool, lowercase: Bool) throws
        -> [UInt32: [Added]]
    {
        var table: [UInt32: [Added]] = [:]
        for token in added {
            if (token.singleWord ?? false) || (token.lstrip ?? false) || (token.rstrip ?? false) {
                throw ModelError.tokenizerRefused("added token \(token.content) takes spaces or whole words")
            }
            if (token.normalized ?? false) != normalized || token.content.isEmpty { continue }
            var scalars = Self.scalars(token.content)
            if normalized && lowercase { scalars = scalars.flatMap { Self.lowered($0) } }
            var same = table[scalars[0]] ?? []
            let place = same.firstIndex { $0.letters.count < scalars.count } ?? same.count
            same.insert(Added(letters: scalars, id: token.id), at: place)
            table[scalars[0]] = same
        }
        return table
    }

    /// Ids that the template puts before and after a single sequence.
    static func frame(_ processor: TokenizerFile.PostProcessor?) throws -> (before: [Int32], after: [Int32]) {
        guard let processor = processor else { return ([], []) }
        if processor.type == "BertProcessing" || processor.type == "RobertaProcessing" {
            guard let cls = processor.cls, let sep = processor.sep else {
                throw ModelError.tokenizerRefused("post-processor without tokens")
            }
            return ([cls.id], [sep.id])
        }
        if processor.type != "TemplateProcessing" {
            throw ModelError.tokenizerRefused("post-processor \(processor.type)")
        }
        var parts: [[Int32]] = [[]]
        for piece in processor.single ?? [] {
            if piece.sequence != nil {
                parts.append([])
                continue
            }
            guard let name = piece.special?.id, let token = processor.specialTokens?[name] else {
                throw ModelError.tokenizerRefused("the template names an unknown token")
            }
            parts[parts.count - 1] += token.ids
        }
        if parts.count != 2 { throw ModelError.tokenizerRefused("the template is not of one sequence") }
        return (parts[0], parts[1])
    }

    static func padding(_ file: TokenizerFile) -> Int32? {
        if let padding = file.padding { return padding.id }
        for name in padNames {
            for token in file.addedTokens ?? [] where token.content == name { return token.id }
            if let id = file.model.vocab[name] { return id }
        }
        return nil
    }

    static func scalars(_ text: String) -> [UInt32] {
        text.unicodeScalars.map { $0.value }
    }

    static func key(_ left: Int32, _ right: Int32) -> Int {
        Int(left) << 32 | Int(right)
    }

    static func lowered(_ letter: UInt32) -> [UInt32] {
        guard let scalar = Unicode.Scalar(letter) else { return [letter] }
        return scalars(scalar.properties.lowercaseMapping)
    }

    /// Ids of a whole text in the model's template, however long it is.
    public func encode(_ text: String) throws -> Encoding {
        framed(try tokens(text))
    }

    /// Tokens in the model's template.
    func framed(_ body: Encoding) -> Encoding {
        var whole = Encoding(ids: before, starts: [Int](repeating: -1, count: before.count))
        whole.ids += body.ids + after
        whole.starts += body.starts + [Int](repeating: -1, count: after.count)
        return whole
    }

    /// A text in windows of `length` tokens, template included, of which neighbours share `overlap` tokens of
    /// the text; the last is padded. One window for a text that fits.
    public func windows(_ text: String, length: Int, overlap: Int = 0) throws -> [Window] {
        let room = length - before.count - after.count
        if room < 1 || overlap < 0 || overlap >= room {
            throw ModelError.textRefused("windows of \(length) tokens cannot overlap by \(overlap)")
        }
        let body = try tokens(text)
        var windows: [Window] = []
        var from = 0
        while true {
            let to = min(from + room, body.ids.count)
            windows.append(try window(body, from, to, length))
            if to == body.ids.count { return windows }
            from += room - overlap
        }
    }

    func window(_ body: Encoding, _ from: Int, _ to: Int, _ length: Int) throws -> Window {
        let taken = framed(Encoding(ids: Array(body.ids[from..<to]), starts: Array(body.starts[from..<to])))
        var ids = taken.ids
        var starts = taken.starts
        var mask = [Float](repeating: 1, count: ids.count)
        while ids.count < length {
            guard let pad = pad else { throw ModelError.textRefused("the tokenizer has no padding token") }
            ids.append(pad)
            starts.append(-1)
            mask.append(0)
        }
        return Window(ids: ids, mask: mask, starts: starts)
    }

    /// Ids of a text without the template.
    public func tokens(_ text: String) throws -> Encoding {
        let scalars = Self.scalars(text)
        var out = Encoding()
        for raw in find(scalars, 0, scalars.count, rawTokens) {
            if let id = raw.id {
                out.ids.append(id)
                out.starts.append(raw.from)
                continue
            }
            var normal: [UInt32] = []
            var origins: [Int] = []
            for place in raw.from..<raw.to {
                let mapped = lowercase ? Self.lowered(scalars[place]) : [scalars[place]]
                normal += mapped
                origins += mapped.map { _ in place }
            }
            for piece in find(normal, 0, normal.count, normalTokens) {
                if let id = piece.id {
                    out.ids.append(id)
                    out.starts.append(origins[piece.from])
                    continue
                }
                for word in try words(normal, piece.from, piece.to) {
                    let merged = merge(symbols(normal, origins, word.from, word.to))
                    out.ids += merged.ids
                    out.starts += merged.starts
                }
            }
        }
        return out
    }

    /// Cuts a text at added tokens: at each place the longest of them, from the left.
    func find(_ text: [UInt32], _ from: Int, _ to: Int, _ table: [UInt32: [Added]]) -> [Match] {
        var matches: [Match] = []
        var begun = from
        var place = from
        while place < to {
            let found = table[text[place]]?.first { token in
                place + token.letters.count <= to
                    && token.letters == Array(text[place..<place + token.letters.count])
            }
            guard let token = found else {
                place += 1
                continue
            }
            if begun < place { matches.append(Match(from: begun, to: place, id: nil)) }
            place += token.letters.count
            matches.append(Match(from: place - token.letters.count, to: place, id: token.id))
            begun = place
        }
        if begun < to { matches.append(Match(from: begun, to: to, id: nil)) }
        return matches
    }

    /// Cuts a text at white space, and between word characters and others where the file says so.
    func words(_ text: [UInt32], _ from: Int, _ to: Int) throws -> [Match] {
        if !splitsSpaces { return [Match(from: from, to: to, id: nil)] }
        var words: [Match] = []
        var begun = from
        var last = 0
        for place in from..<to {
            let kind = try self.kind(text[place])
            if kind != last {
                if last != 0 { words.append(Match(from: begun, to: place, id: nil)) }
                begun = place
                last = kind
            }
        }
        if last != 0 { words.append(Match(from: begun, to: to, id: nil)) }
        return words
    }

    /// 0 white space, 1 word character (or anything, where words are not told apart), 2 other.
    func kind(_ letter: UInt32) throws -> Int {
        if Self.spaces.contains(letter) { return 0 }
        if !splitsWords { return 1 }
        if letter > 127 { throw ModelError.textRefused("this tokenizer is exact for ASCII text only") }
        let digit = letter >= 48 && letter <= 57
        let upper = letter >= 65 && letter <= 90
        let lower = letter >= 97 && letter <= 122
        return digit || upper || lower || letter == 95 ? 1 : 2
    }

    /// Letters of a word as tokens; letters outside the vocabulary are unknown, or left out where no token is.
    func symbols(_ text: [UInt32], _ origins: [Int], _ from: Int, _ to: Int) -> Encoding {
        var word = Encoding()
        var open = false
        for place in from..<to {
            if let id = letters[text[place]] {
                word.ids.append(id)
                word.starts.append(origins[place])
                open = false
            } else if let unknown = unknown {
                if open && fuseUnknown { continue }
                word.ids.append(unknown)
                word.starts.append(origins[place])
                open = true
            }
        }
        return word
    }

    /// Merges neighbours in the order of their rank: a heap of candidates over a linked list, O(n log n).
    func merge(_ word: Encoding) -> Encoding {
        var ids = word.ids
        let count = ids.count
        var next: [Int] = []
        var previous: [Int] = []
        var heap = Heap()
        for place in 0..<count {
            next.append(place + 1)
            previous.append(place - 1)
            if place + 1 < count, let rank = ranks[Self.key(ids[place], ids[place + 1])] {
                heap.push(rank << 32 | place)
            }
        }
        while let top = heap.pop() {
            let rank = top >> 32
            let place = top & 0xFFFF_FFFF
            if ids[place] < 0 || next[place] == count { continue }
            let right = next[place]
            guard let found = ranks[Self.key(ids[place], ids[right])] else { continue }
            if made[found] != made[rank] { continue }
            ids[place] = made[rank]
            ids[right] = -1
            next[place] = next[right]
            if next[place] < count {
                previous[next[place]] = place
                if let rank = ranks[Self.key(ids[place], ids[next[place]])] { heap.push(rank << 32 | place) }
            }
            if previous[place] >= 0 {
                let left = previous[place]
                if let rank = ranks[Self.key(ids[left], ids[place])] { heap.push(rank << 32 | left) }
            }
        }
        var out = Encoding()
        for place in 0..<count where ids[place] >= 0 {
            out.ids.append(ids[place])
            out.starts.append(word.starts[place])
        }
        return out
    }
}
