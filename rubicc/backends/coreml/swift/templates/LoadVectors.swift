import Foundation
import XCTest

/// A recorded vector file of these tests.
func load<Vectors: Decodable>(_ name: String, _ type: Vectors.Type) throws -> Vectors {
    let url = Bundle.module.url(forResource: name, withExtension: "json", subdirectory: "Vectors")
    return try JSONDecoder().decode(type, from: Data(contentsOf: try XCTUnwrap(url)))
}
