//! The cases that SentencePiece and Hugging Face's decoder were asked.

use mistral_model::generate::TextStream;
use mistral_model::tokenizer::Tokenizer;

use super::{each, open, pieces_of};

#[test]
fn every_text_has_the_ids_of_sentencepiece() {
    each(|file, tokenizer, golden| {
        assert_eq!(golden.encode.len(), 239, "{file}");
        for case in golden.encode {
            let ids = tokenizer.encode_without_bos(&case.text).unwrap();
            assert_eq!(ids, case.ids, "{file}: {:?}", case.text);
            let pieces: Vec<_> = ids.iter().map(|id| tokenizer.piece(*id).unwrap()).collect();
            assert_eq!(pieces, case.pieces, "{file}: {:?}", case.text);
            assert_eq!(tokenizer.decode(&ids).unwrap(), case.decoded, "{file}");
        }
    });
}

#[test]
fn every_sequence_has_the_text_of_sentencepiece() {
    each(|file, tokenizer, golden| {
        assert!(golden.decode.len() >= 37, "{file}");
        for case in golden.decode {
            let text = tokenizer.decode(&case.ids).unwrap();
            assert_eq!(text, case.ignore_special, "{file}: {:?}", case.ids);
            let written: String = case.ids.iter().map(|id| tokenizer.piece(*id).unwrap()).collect();
            assert_eq!(written, case.keep_special, "{file}: {:?}", case.ids);
        }
    });
}

#[test]
fn a_stream_shows_each_finished_character_at_once() {
    each(|file, tokenizer, golden| {
        assert_eq!(golden.stream.len(), 10, "{file}");
        for case in golden.stream {
            let mut stream = TextStream::new(tokenizer);
            let mut shown = String::new();
            let steps = case.ids.iter().zip(case.chunks).zip(case.prefixes);
            for (n, ((id, chunk), prefix)) in steps.enumerate() {
                let found = stream.push(*id).unwrap();
                assert_eq!(found, chunk.as_deref(), "{file}: {:?}", case.ids);
                shown.push_str(found.unwrap_or_default());
                // As a whole, one U+FFFD for each byte of what is not finished.
                assert_eq!(tokenizer.decode(&case.ids[..=n]).unwrap(), prefix, "{file}");
                assert_eq!(shown, prefix.trim_end_matches('\u{fffd}'), "{file}: {:?}", case.ids);
            }
            assert_eq!(stream.finish(), None);
        }
    });
}

#[test]
fn a_stream_joins_to_the_text_of_the_whole_sequence() {
    each(|file, tokenizer, golden| {
        for case in golden.decode {
            let mut stream = TextStream::new(tokenizer);
            let mut shown = String::new();
            for id in &case.ids {
                shown.push_str(stream.push(*id).unwrap().unwrap_or_default());
            }
            shown.push_str(stream.finish().unwrap_or_default());
            assert_eq!(shown, case.ignore_special, "{file}: {:?}", case.ids);
        }
    });
}

#[test]
fn a_sequence_starts_with_one_bos_and_text_makes_none() {
    each(|file, tokenizer, golden| {
        assert_eq!(tokenizer.bos_token(), Some(1));
        assert_eq!(tokenizer.encode("").unwrap(), [1]);
        for case in golden.encode {
            let ids = tokenizer.encode(&case.text).unwrap();
            assert_eq!(ids[0], 1);
            assert_eq!(ids[1..], case.ids, "{file}: {:?}", case.text);
        }
    });
}

#[test]
fn control_pieces_have_ids_and_come_from_no_text() {
    each(|file, tokenizer, _| {
        let controls: &[(&str, u32)] = match &file[..2] {
            "v1" => &[("<s>", 1), ("</s>", 2)],
            "v2" => &[("<s>", 1), ("[INST]", 3), ("[/INST]", 4), ("[control_8]", 10)],
            _ => &[("</s>", 2), ("[TOOL_CALLS]", 5), ("[IMG]", 10), ("[SUFFIX]", 13)],
        };
        for (piece, id) in controls {
            assert_eq!(tokenizer.id(piece), Some(*id), "{file}");
            assert!(tokenizer.is_control(*id), "{file}: {piece}");
            for text in [(*piece).to_owned(), format!("a{piece}b"), piece.repeat(3)] {
                let ids = tokenizer.encode_without_bos(&text).unwrap();
                assert!(
                    !ids.iter().any(|id| tokenizer.is_control(*id)),
                    "{file}: {text:?} {ids:?}"
                );
                assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{file}");
            }
        }
        for piece in ["<unk>", "<0x41>", "\u{2581}a", "a"] {
            let id = tokenizer.id(piece).unwrap();
            assert!(!tokenizer.is_control(id), "{file}: {piece}");
        }
        assert!(!tokenizer.is_control(u32::MAX));
        let n = (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.is_control(*id)).count();
        assert_eq!(n, [2, 770, 750][file[1..2].parse::<usize>().unwrap() - 1], "{file}");
    });
}

#[test]
fn pieces_and_ids_name_each_other() {
    each(|file, tokenizer, _| {
        let size = if file.starts_with("v1") { 32_000 } else { 32_768 };
        assert_eq!(tokenizer.vocab_size(), size);
        for id in 0..u32::try_from(size).unwrap() {
            let piece = tokenizer.piece(id).unwrap();
            assert_eq!(tokenizer.id(piece), Some(id), "{file}: {piece:?}");
        }
        assert_eq!(tokenizer.piece(u32::MAX), None);
        assert_eq!(tokenizer.id("no such piece"), None);
    });
}

#[test]
fn user_defined_pieces_are_found_inside_text_the_longest_first() {
    let tokenizer = open("v3/tokenizer.model");
    let ids = |text: &str| tokenizer.encode_without_bos(text).unwrap();
    let of_piece = |n: u32| tokenizer.id(&format!("[REFERENCE_DOC_{n}]")).unwrap();
    assert_eq!(of_piece(19), 751);
    assert_eq!(of_piece(1), 769);
    for text in ["see[REFERENCE_DOC_1]here", "[REFERENCE_DOC_1][REFERENCE_DOC_19]"] {
        assert!(ids(text).contains(&of_piece(1)), "{text}");
        assert_eq!(tokenizer.decode(&ids(text)).unwrap(), text);
    }
    // A piece that is cut short, or goes on, is text.
    for text in ["[REFERENCE_DOC_1", "[REFERENCE_DOC_20]", "[reference_doc_1]"] {
        assert!(!ids(text).iter().any(|id| (751..=770).contains(id)), "{text}");
    }
    assert!(!tokenizer.is_control(of_piece(3)));
    let v2 = open("v2/tokenizer.model");
    assert_eq!(v2.id("[REFERENCE_DOC_1]"), None);
}

#[test]
fn bytes_join_to_characters_but_not_across_a_control_piece() {
    each(|file, tokenizer, _| {
        let byte = |byte: u8| tokenizer.id(&format!("<0x{byte:02X}>")).unwrap();
        let (e2, x82, xac) = (byte(0xE2), byte(0x82), byte(0xAC));
        assert_eq!(tokenizer.decode(&[e2, x82, xac]).unwrap(), "\u{20ac}", "{file}");
        assert_eq!(tokenizer.decode(&[e2, x82, 1, xac]).unwrap(), "\u{fffd}".repeat(3), "{file}");
    });
}

#[test]
fn text_goes_on_where_the_prompt_ends() {
    let tokenizer = open("v1/tokenizer.json");
    let [hello, world] = tokenizer.encode_without_bos("Hello world").unwrap()[..] else {
        panic!("two tokens expected")
    };
    let mut alone = TextStream::new(&tokenizer);
    assert_eq!(alone.push(world).unwrap(), Some("world"));
    let mut after = TextStream::after(&tokenizer, &[1, hello]).unwrap();
    assert_eq!(after.push(world).unwrap(), Some(" world"));
    // The prompt ends inside a character: it comes out whole.
    let bytes: Vec<u32> =
        "龘".bytes().map(|byte| tokenizer.id(&format!("<0x{byte:02X}>")).unwrap()).collect();
    let mut inside = TextStream::after(&tokenizer, &bytes[..2]).unwrap();
    assert_eq!(inside.push(bytes[2]).unwrap(), Some("龘"));
}

#[test]
fn an_id_without_a_piece_is_an_error_and_leaves_the_stream_as_it_was() {
    let tokenizer = open("v1");
    let expected = "token id 32000 has no piece, expected one of the 32000 of the vocabulary";
    let error = tokenizer.decode(&[1, 32_000]).unwrap_err();
    assert_eq!(error.to_string(), expected);
    let mut stream = TextStream::new(&tokenizer);
    assert!(stream.push(32_000).is_err());
    assert_eq!(stream.push(1526).unwrap(), Some("world"));
}

#[test]
fn a_vocabulary_written_in_either_form_gives_the_same_ids() {
    each(|file, tokenizer, golden| {
        let pieces = pieces_of(&file[..2]);
        let again = Tokenizer::from_model(&pieces.to_model()).unwrap();
        let json = Tokenizer::from_json(pieces.to_tokenizer_json().unwrap().as_bytes()).unwrap();
        for case in golden.encode {
            let ids = tokenizer.encode(&case.text).unwrap();
            assert_eq!(again.encode(&case.text).unwrap(), ids, "{file}: {:?}", case.text);
            // The JSON form puts a space behind a user-defined piece.
            if !case.text.contains("[REFERENCE_DOC") {
                assert_eq!(json.encode(&case.text).unwrap(), ids, "{file}: {:?}", case.text);
            }
        }
        assert_eq!((again.bos_token(), json.bos_token()), (Some(1), Some(1)));
    });
}

#[test]
fn a_gguf_file_brings_its_tokenizer() {
    let tokenizer = open("../gguf/f32.gguf");
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos_token()), (288, Some(1)));
    let ids = tokenizer.encode("the rest</s>\u{e9}").unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the rest</s>\u{e9}");
    assert!(!ids[1..].iter().any(|id| *id < 3), "controls are no text: {ids:?}");
}
