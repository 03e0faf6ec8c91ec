//! Random steps against the model: no panic, and no promise broken.

use proptest::prelude::*;
use zwerm_session::Attached;
use zwerm_wire::{QoS, ReasonCode};

use crate::model::{MAX_INFLIGHT, Model, Step, limits, take};
use crate::stage::{Stage, id};

fn step() -> impl Strategy<Value = Step> {
    let ids = 1..=8_u16;
    let qos = prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let reason = prop::sample::select(vec![
        ReasonCode::Success,
        ReasonCode::Success,
        ReasonCode::NoMatchingSubscribers,
        ReasonCode::NotAuthorized,
        ReasonCode::QuotaExceeded,
    ]);
    let completed = prop::sample::select(vec![ReasonCode::Success, ReasonCode::PacketIdentifierNotFound]);
    prop_oneof![
        12 => (qos.clone(), ids.clone(), any::<bool>())
            .prop_map(|(qos, packet_id, dup)| Step::Publish { qos, packet_id, dup }),
        1 => (0..=2_u16, prop::bool::weighted(0.9)).prop_map(|(alias, named)| Step::Aliased { alias, named }),
        12 => (0..4_usize, reason.clone()).prop_map(|(nth, reason)| Step::Answer { nth, reason }),
        6 => (0..4_usize).prop_map(|nth| Step::Release { nth }),
        1 => (0..4_u8, ids.clone(), reason.clone())
            .prop_map(|(kind, packet_id, reason)| Step::Stray { kind, packet_id, reason }),
        1 => ids.clone().prop_map(Step::Subscribe),
        1 => ids.clone().prop_map(Step::Unsubscribe),
        1 => Just(Step::Ping),
        8 => (0..3_usize).prop_map(|nth| Step::CommitReceived { nth }),
        4 => (0..3_usize, completed).prop_map(|(nth, reason)| Step::CommitComplete { nth, reason }),
        18 => (0..3_usize, reason).prop_map(|(nth, reason)| Step::Accept { nth, reason }),
        2 => ids.clone().prop_map(Step::AnswerSubscribe),
        2 => ids.prop_map(Step::AnswerUnsubscribe),
        12 => qos.prop_map(Step::Deliver),
        1 => (0..40_u64).prop_map(Step::Wait),
        1 => prop::bool::weighted(0.05).prop_map(|kick| if kick { Step::Kick } else { Step::Ping }),
    ]
}

/// Transient, or durable with identifiers of an earlier connection.
fn attached() -> impl Strategy<Value = Attached> {
    let ids = || prop::collection::btree_set(1..=8_u16, 0..6);
    let ids = move || ids().prop_map(|ids| ids.into_iter().map(id).collect());
    prop_oneof![
        Just(Attached::default()),
        (ids(), ids()).prop_map(|(received, released)| Attached {
            durable: true,
            received,
            released,
            ..Attached::default()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_steps_keeps_the_promises(
        protocol in prop::sample::select(crate::stage::PROTOCOLS.to_vec()),
        attached in attached(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut model = Model::new(protocol, MAX_INFLIGHT, &attached);
        let released = attached.released.len();
        let (mut stage, pubrels) = Stage::attached(protocol, limits(), attached);
        prop_assert_eq!(pubrels.len(), released);
        for step in steps {
            take(&mut stage, &mut model, step);
            model.agrees(&stage);
            if model.ended {
                break;
            }
        }
    }
}
