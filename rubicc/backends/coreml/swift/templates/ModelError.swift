import Foundation

/// Everything that can go wrong in this package; nothing in it stops the app on bad input.
public enum ModelError: Error, Equatable, Sendable {
    case modelNotFound(String)
    case modelNotLoaded(String)
    case wrongShape(name: String, expected: String, found: [Int])
    case predictionFailed(String)
    case outputMissing(String)
    case tokenizerRefused(String)
    case textRefused(String)
    case signalRefused(String)
    case scoresRefused(String)
}

extension ModelError: LocalizedError {
    public var errorDescription: String? {
        switch self {
        case .modelNotFound(let name):
            return "The bundle holds neither \(name).mlmodelc nor \(name).mlpackage."
        case .modelNotLoaded(let reason):
            return "Core ML cannot load the model: \(reason)"
        case .wrongShape(let name, let expected, let found):
            return "\(name) has shape \(found); the model takes \(expected)."
        case .predictionFailed(let reason):
            return "Prediction failed: \(reason)"
        case .outputMissing(let name):
            return "The prediction has no array \(name)."
        case .tokenizerRefused(let reason):
            return "tokenizer.json cannot be used: \(reason)"
        case .textRefused(let reason):
            return "The text cannot be tokenized: \(reason)"
        case .signalRefused(let reason):
            return "The signal cannot be called: \(reason)"
        case .scoresRefused(let reason):
            return "The scores cannot be decoded: \(reason)"
        }
    }
}
