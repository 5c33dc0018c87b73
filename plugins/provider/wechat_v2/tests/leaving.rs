//! Every encoded request, checked with another XML parser.

use super::super::super::bill::Bills;
use super::*;

/// Returns every request that the provider encodes, with hostile texts from the caller.
fn requests(provider: &WechatV2, text: &str) -> Vec<Request<Bytes>> {
    let stamp = super::super::super::Stamp { unix_time: NOW, nonce: "ibuaiVcKdpRxkhJA".to_owned() };
    let with = Signing { signer: &*crate::signer::none(), keys: &Keyring::default(), stamp: &stamp };
    let mut operations: Vec<Operation> = SPEC.methods.iter().map(|method| golden::pay(method)).collect();
    for operation in &mut operations {
        if let Operation::Pay(pay) = operation {
            text.clone_into(&mut pay.description);
            pay.payer.openid = Some("oUpF8uMuAJO_M2pxb1Q9zNjWeS6o".to_owned());
            pay.payer.client_ip = Some("203.0.113.9".to_owned());
            pay.payer.auth_code = Some("134567890123456789".to_owned());
        }
    }
    for method in ["wechat.native", "wechat.codepay"] {
        let Operation::Pay(pay) = golden::pay(method) else { panic!() };
        let refund = crate::payment::Refund { reason: Some(text.to_owned()), ..golden::refund(method) };
        operations.extend([Operation::Query(pay.order.clone()), Operation::Close(pay.order)]);
        operations.extend([Operation::Refund(refund.clone()), Operation::QueryRefund(refund)]);
    }
    let mut requests: Vec<_> = operations
        .iter()
        .filter_map(|operation| match provider.encode(operation, with) {
            Ok(Encoded::Send(request)) => Some(request),
            Err(Error::Unsupported(_)) => None,
            other => panic!("{other:?}"),
        })
        .collect();
    let day = jiff::civil::date(2023, 11, 13);
    let wanted = |kind: &&'static str| super::super::super::bill::BillRequest { day, kind };
    requests.extend(provider.kinds().iter().map(|kind| provider.bill_request(&wanted(kind), with).unwrap()));
    for request in &mut requests {
        provider.sign(request, with).unwrap();
    }
    requests
}

/// Returns the fields as a strict parser reads them; `None` if the body is not XML.
fn parsed_strictly(body: &[u8]) -> Option<Fields> {
    let document = roxmltree::Document::parse(std::str::from_utf8(body).ok()?).ok()?;
    let field = |node: roxmltree::Node<'_, '_>| {
        let value: String = node.children().filter_map(|part| part.text()).collect();
        (node.tag_name().name().to_owned(), value)
    };
    Some(document.root_element().children().map(field).collect())
}

#[test]
fn every_request_is_xml_whose_signature_another_parser_confirms() {
    for provider in [provider(), partner()] {
        let mut paths = std::collections::BTreeSet::new();
        for request in requests(&provider, "茶 <b>&amp; ]]> \"'\ttea\nmilk 🍵") {
            let fields = parsed_strictly(request.body()).unwrap_or_else(|| panic!("{request:?}"));
            let sign_type = SignType::named(&fields["sign_type"]).unwrap();
            assert_eq!(fields["sign"], provider.account.key.sign_as(sign_type, &fields), "{}", request.uri());
            paths.insert(request.uri().path().to_owned());
        }
        let funds = usize::from(provider.account.sub_mchid.is_none());
        assert_eq!(paths.len(), 8 + funds, "every interface: {paths:?}");
    }
}

proptest! {
    /// A text is either rejected with the name of its field, or transmitted as signed.
    #[test]
    fn any_text_is_rejected_or_transmitted_as_signed(text in "([ -~]|\\PC|[\u{0}-\u{ffff}]|\r\n|]]>|&#13;){1,12}") {
        for request in requests(&provider(), &text) {
            let fields = parsed_strictly(request.body());
            prop_assert!(fields.is_some());
            let fields = fields.unwrap_or_default();
            let sign_type = SignType::named(&fields["sign_type"]).unwrap();
            prop_assert_eq!(&fields["sign"], &provider().account.key.sign_as(sign_type, &fields));
        }
    }
}
