//! Possible next steps: of each machine, of the provider, and of time.

use super::*;

impl World {
    pub(super) fn steps(&self) -> Steps {
        let mut steps = Vec::new();
        // Both machines are equal, so the first begins.
        for machine in 0..if self.ids == 0 { 1 } else { 2 } {
            match self.machines[machine].hand.clone() {
                None => self.begin(machine, &mut steps),
                Some(hand) => self.go_on(machine, &hand, &mut steps),
            }
            self.keep_house(machine, &mut steps);
        }
        if self.on_its_way > 0 {
            let arrived = Self { on_its_way: self.on_its_way - 1, executed: self.executed + 1, ..self.clone() };
            steps.push(("the provider executes it".into(), arrived));
            steps.push(("it is lost on its way".into(), Self { on_its_way: self.on_its_way - 1, ..self.clone() }));
        }
        self.resolve(&mut steps);
        steps
    }

    /// Steps of a machine without a permit.
    fn begin(&self, machine: usize, steps: &mut Steps) {
        for (later, visibility) in
            [false, true].into_iter().flat_map(|later| Visibility::ANY.map(|visibility| (later, visibility)))
        {
            let (Some(requests), Some(mut next)) =
                (self.left.requests.checked_sub(1), self.with_visibility(visibility))
            else {
                continue;
            };
            next.left.requests = requests;
            // After a response that nothing was sent, a merchant retries.
            next.rejected &= self.rows.payment().is_some();
            let waits = later.then(|| AsyncRequest { body: "{}".into(), full: None });
            let claimed = next.write(machine, visibility, |tx| claim(tx, "k", pay("o"), waits)).unwrap();
            if let ClaimResult::Run(permit) = claimed {
                next.give(machine, permit.execution, false, visibility);
            } else if visibility != Visibility::All && !later {
                continue;
            }
            steps.push((format!("{machine} is asked, later {later}, sees {visibility:?}"), next));
        }
        if let Some(requests) = self.left.requests.checked_sub(1) {
            let mut next = Self { left: Left { requests, ..self.left }, ..self.clone() };
            let claimed = next.write(machine, Visibility::All, |tx| claim(tx, "c", close("o"), None));
            // A close does not change how often the payment is executed.
            if matches!(claimed, Ok(ClaimResult::AlreadyExists(_))) {
                steps.push((format!("{machine} is requested to close it"), next));
            }
        }
        let waiting: Vec<_> = self.rows.of(Space::Jobs).map(|(key, _)| key.clone()).collect();
        for (claim, visibility) in
            jobs::ids(&waiting).into_iter().flat_map(|id| Visibility::ANY.map(|visibility| (id, visibility)))
        {
            let Some(mut next) = self.with_visibility(visibility) else { continue };
            let taken = next.write(machine, visibility, |tx| jobs::take(tx, claim, "here", at(0))).unwrap();
            if let Some(permit) = taken {
                next.give(machine, permit.execution, true, visibility);
                steps.push((format!("{machine} takes it, sees {visibility:?}"), next));
            } else {
                steps.push((format!("{machine} finds nothing to be made"), next));
            }
        }
    }

    fn give(&mut self, machine: usize, execution: ExecutionId, is_job: bool, visibility: Visibility) {
        let it = &mut self.machines[machine];
        match visibility {
            Visibility::All => it.hand = Some(HeldPermit { execution, is_job, term: it.term, sent: false }),
            // The permit reached no caller.
            _ => it.ends.push((execution, Abandoned::NotSent)),
        }
    }

    /// Steps of a machine with a permit.
    fn go_on(&self, machine: usize, hand: &HeldPermit, steps: &mut Steps) {
        let it = &self.machines[machine];
        if hand.sent {
            for (update, name) in [
                (outcome(Status::Succeeded), "an answer: done"),
                (Update::Declined(provider_error()), "an answer: refused"),
                (Update::Unknown(Reason::default()), "no answer"),
            ] {
                let is_possible = match update {
                    Update::Outcome(_) => self.executed > 0,
                    Update::Declined(_) => self.on_its_way > 0,
                    _ => true,
                };
                if is_possible {
                    self.settle(machine, hand, &update, name, steps);
                }
            }
        } else {
            let may_send = !it.has_no_lease && (hand.term == it.term || self.broken == Broken::Terms);
            if may_send {
                let mut next = Self { on_its_way: self.on_its_way + 1, ..self.clone() };
                next.machines[machine].hand = Some(HeldPermit { sent: true, ..hand.clone() });
                steps.push((format!("{machine} sends it"), next));
            }
            self.move_on(machine, hand, steps);
            self.release(machine, hand, steps);
            if hand.is_job {
                self.settle(machine, hand, &Update::NotSent(Status::Failed, Reason::default()), "given up", steps);
            }
        }
        if let Some(mut next) = self.fault() {
            next.lose(machine, hand.execution);
            steps.push((format!("{machine} loses its permit"), next));
        }
    }

    fn settle(&self, machine: usize, hand: &HeldPermit, update: &Update, name: &str, steps: &mut Steps) {
        for visibility in Visibility::ANY {
            let Some(mut next) = self.with_visibility(visibility) else { continue };
            if matches!(update, Update::Declined(_)) {
                next.on_its_way -= 1;
            }
            let update = timeline::UpdateWithEvidence::from(update.clone());
            let settled =
                next.write(machine, visibility, |tx| claims::settle(tx, hand.execution, update, at(1), answer));
            if visibility == Visibility::All && settled.is_ok() {
                next.machines[machine].hand = None;
            } else {
                next.lose(machine, hand.execution);
            }
            steps.push((format!("{machine} settles it ({name}), sees {visibility:?}"), next));
        }
    }

    fn move_on(&self, machine: usize, hand: &HeldPermit, steps: &mut Steps) {
        let Some(moves) = self.left.moves.checked_sub(1) else { return };
        let mut next = Self { left: Left { moves, ..self.left }, ..self.clone() };
        let mut tried = ProviderCall::begun(Kind::Pay, "wechat", at(0));
        tried.ended(&Err(Error::NotSent("refused".into())));
        let to = destination("backup", "wechat-v3:2");
        let moved =
            next.write(machine, Visibility::All, |tx| claims::reroute(tx, hand.execution, to, vec![tried], at(1)));
        if moved.is_ok() {
            steps.push((format!("{machine} goes to another channel"), next));
        }
    }

    fn release(&self, machine: usize, hand: &HeldPermit, steps: &mut Steps) {
        let Some(returns) = self.left.returns.checked_sub(1) else { return };
        for visibility in Visibility::ANY {
            let Some(mut next) = self.with_visibility(visibility) else { continue };
            next.left.returns = returns;
            next.write(machine, visibility, |tx| claims::release(tx, hand.execution, Attempt::Made, Vec::new(), at(1)))
                .unwrap();
            if visibility == Visibility::All {
                next.machines[machine].hand = None;
                // 503: nothing was sent.
                next.rejected |= next.rows.payment().is_none();
            } else {
                next.lose(machine, hand.execution);
            }
            steps.push((format!("{machine} gives it back, sees {visibility:?}"), next));
        }
    }

    fn lose(&mut self, machine: usize, execution: ExecutionId) {
        let it = &mut self.machines[machine];
        it.hand = None;
        it.ends.push((execution, Abandoned::MaybeSent));
    }

    /// Background steps of a machine, and faults.
    fn keep_house(&self, machine: usize, steps: &mut Steps) {
        let it = &self.machines[machine];
        for backend in 0..it.ends.len() {
            let mut next = self.clone();
            let (execution, end) = next.machines[machine].ends.remove(backend);
            next.end(machine, execution, end);
            steps.push((format!("{machine} ends what it has no permit of: {end:?}"), next));
        }
        for (claim, (owner, history)) in &self.owners {
            let Some(execution) = self.rows.execution(*claim) else { continue };
            let owned_by = &self.machines[*owner];
            let is_known = it.ends.iter().any(|(ended, _)| *ended == execution);
            let is_dead = owned_by.history != *history || owned_by.has_no_lease;
            let is_held = it.hand.as_ref().is_some_and(|hand| hand.execution == execution);
            let is_ours = *owner == machine && it.history == *history;
            if !is_known && ((is_dead && !is_ours) || (is_ours && !is_held)) {
                // Read in one transaction, written in another.
                let mut next = self.clone();
                next.machines[machine].ends.push((execution, Abandoned::MaybeSent));
                steps.push((format!("{machine} finds that nobody runs it"), next));
            }
        }
        if it.has_no_lease {
            let mut next = self.clone();
            let it = &mut next.machines[machine];
            (it.has_no_lease, it.term) = (false, it.term + 1);
            steps.push((format!("{machine} has its lease again"), next));
        } else if let Some(mut next) = self.fault() {
            next.machines[machine].has_no_lease = true;
            steps.push((format!("{machine} has no lease"), next));
        }
        if let Some(mut next) = self.fault() {
            next.machines[machine] = Machine { history: it.history + 1, ..Machine::default() };
            steps.push((format!("{machine} dies and starts again"), next));
        }
    }

    fn end(&mut self, machine: usize, execution: ExecutionId, end: Abandoned) {
        let execution = match self.broken {
            Broken::Turns => self.rows.execution(execution.claim).unwrap_or(execution),
            _ => execution,
        };
        let is_job = !self.rows.claim(execution.claim)["job"].is_null();
        let end = if self.broken == Broken::Losses && is_job { Abandoned::NotSent } else { end };
        self.write(machine, Visibility::All, |tx| end.of(tx, execution, Timestamp::now())).unwrap();
    }

    /// The provider is queried about an unknown record.
    fn resolve(&self, steps: &mut Steps) {
        let is_unknown = self.rows.payment().is_some_and(|row| row.payment.status == Status::Unknown);
        if !is_unknown || (self.executed == 0 && self.on_its_way > 0) {
            return;
        }
        let update = if self.executed > 0 { outcome(Status::Succeeded) } else { Update::NotFoundAtProvider };
        let mut next = self.clone();
        next.write(0, Visibility::All, |tx| apply::apply(tx, &of("o"), update.clone().into(), at(2))).unwrap();
        steps.push((format!("the provider is queried: {update:?}"), next));
    }
}

fn claim(
    tx: &mut Transaction<'_>,
    key: &str,
    intent: Intent,
    later: Option<AsyncRequest>,
) -> Result<ClaimResult, LedgerError> {
    claims::claim(tx, *claims::Request::new(&claim_key(key, "body"), intent, later, at(0))?)
}
