//! Figures for people: medians, ratios, and as many digits as mean something. Pure. Start at [`short`].

/// The middle one; between the two in the middle if their number is even.
pub(crate) fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

/// One to the other; `–` where there is none.
pub(crate) fn ratio(one: Option<f64>, other: Option<f64>) -> String {
    match one.zip(other).filter(|(_, other)| *other > 0.0) {
        Some((one, other)) => format!("{:.3}", one / other),
        None => "–".to_owned(),
    }
}

/// Three digits or more, thousands apart.
pub(crate) fn short(figure: f64) -> String {
    if figure < 10.0 {
        return format!("{figure:.3}");
    }
    if figure < 100.0 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_even_number_is_between_two() {
        assert_eq!(median(&[1.0, 4.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn figures_are_short() {
        let figures = [0.1234, 12.34, 123.4, 1_234.5, 1_234_567.0].map(short);
        assert_eq!(figures, ["0.123", "12.3", "123", "1,234", "1,234,567"]);
    }
}
