//! What stands above measured tables: when, of what and where. Start at [`heading`].

use zwerm_tests::Surroundings;

/// Its lines, between empty ones.
pub(crate) fn heading(surroundings: &Surroundings, rounds: usize) -> Vec<String> {
    let Surroundings { date, commit, profile, cores, processor, memory_gib, kernel, .. } = surroundings;
    vec![
        String::new(),
        format!("Measured {date}, commit {commit}, {profile} build, {rounds} rounds; medians."),
        format!(
            "Machine: {cores} cores ({processor}), {memory_gib} GiB, {kernel}; broker and load together on it."
        ),
        String::new(),
    ]
}
