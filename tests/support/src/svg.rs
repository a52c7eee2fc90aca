//! Pictures of measurements.

use std::fmt::{Arguments, Write as _};

/// A picture that is being drawn.
#[derive(Debug)]
pub struct Svg {
    text: String,
}

impl Svg {
    /// A white picture of this size, in pixels.
    pub fn new(width: f64, height: f64) -> Self {
        let mut svg = Self { text: String::new() };
        svg.element(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#333\">"
        ));
        svg.element(format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"));
        svg
    }

    /// Adds an element as it is written.
    pub fn element(&mut self, element: Arguments<'_>) {
        let _ = writeln!(self.text, "{element}"); // a String takes it all
    }

    /// Adds a text at a place; `anchor` is that of SVG: `start`, `middle` or `end`.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        self.element(format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#));
    }

    /// The picture.
    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}
