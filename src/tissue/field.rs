//! A colour that changes slowly over the slide, given in cells and asked for at pixels.

/// Colours at the centres of square cells; between them it is bilinear.
pub(super) struct Field {
    cells: Vec<[f32; 3]>,
    columns: usize,
    rows: usize,
    width: usize,
    side: f64,
}

impl Field {
    /// A field of `columns x rows` cells of `side` pixels over `size` pixels. Cells without a colour take their neighbours'.
    /// `None` where no cell has one, or all have nearly the same.
    pub(super) fn new(
        cells: Vec<Option<[f32; 3]>>,
        columns: usize,
        rows: usize,
        (width, _): (usize, usize),
        side: f64,
    ) -> Option<Self> {
        let known: Vec<[f32; 3]> = cells.iter().flatten().copied().collect();
        let spread = |c: usize| {
            let values = known.iter().map(|colour| colour[c]);
            values.clone().fold(f32::MIN, f32::max) - values.fold(f32::MAX, f32::min)
        };
        if known.is_empty() || (0..3).all(|c| spread(c) <= 2.0) {
            return None;
        }
        let mut cells = cells;
        while cells.iter().any(Option::is_none) {
            let before = cells.clone();
            for (i, cell) in cells.iter_mut().enumerate().filter(|(_, cell)| cell.is_none()) {
                *cell = mean_around(&before, i, columns, rows);
            }
        }
        Some(Field { cells: cells.into_iter().flatten().collect(), columns, rows, width, side })
    }

    /// The colours of line `y`, one a pixel.
    pub(super) fn line(&self, y: usize, out: &mut [[f32; 3]]) {
        let (above, below, down) = self.between(y, self.rows);
        let across = |row: usize, column: usize| self.cells[row * self.columns + column];
        for (x, colour) in out.iter_mut().enumerate().take(self.width) {
            let (left, right, over) = self.between(x, self.columns);
            *colour = [0, 1, 2].map(|c| {
                let top = across(above, left)[c] * (1.0 - over) + across(above, right)[c] * over;
                let bottom = across(below, left)[c] * (1.0 - over) + across(below, right)[c] * over;
                top * (1.0 - down) + bottom * down
            });
        }
    }

    /// The two cells whose centres a pixel lies between, and how far it is on its way to the second, 0..=1.
    fn between(&self, pixel: usize, cells: usize) -> (usize, usize, f32) {
        let place = ((pixel as f64 + 0.5) / self.side - 0.5).clamp(0.0, cells as f64 - 1.0);
        let first = place.floor();
        (first as usize, (first as usize + 1).min(cells - 1), (place - first) as f32)
    }
}

/// Mean of the known colours of a cell and its eight neighbours.
fn mean_around(cells: &[Option<[f32; 3]>], i: usize, columns: usize, rows: usize) -> Option<[f32; 3]> {
    let (column, row) = (i % columns, i / columns);
    let (mut sum, mut number) = ([0f32; 3], 0f32);
    for y in row.saturating_sub(1)..(row + 2).min(rows) {
        for x in column.saturating_sub(1)..(column + 2).min(columns) {
            if let Some(colour) = cells[y * columns + x] {
                sum.iter_mut().zip(colour).for_each(|(sum, c)| *sum += c);
                number += 1.0;
            }
        }
    }
    (number > 0.0).then(|| sum.map(|sum| sum / number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_without_a_colour_take_their_neighbours() {
        let cells = vec![Some([200.0; 3]), None, None, Some([230.0; 3])];
        let field = Field::new(cells, 4, 1, (40, 10), 10.0).unwrap();
        let mut line = vec![[0.0; 3]; 40];
        field.line(4, &mut line);
        assert!(line.windows(2).all(|pair| pair[0][0] <= pair[1][0] + 1e-3), "{line:?}");
        assert!(line[0][0] >= 200.0 && line[39][0] <= 230.0);
    }

    #[test]
    fn an_even_field_is_none() {
        assert!(Field::new(vec![Some([200.0; 3]), Some([201.0; 3])], 2, 1, (20, 10), 10.0).is_none());
        assert!(Field::new(vec![None; 4], 2, 2, (20, 20), 10.0).is_none());
    }
}
