//! A generator that is the same everywhere (splitmix64).

/// Draws numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Equal seeds draw equal numbers.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The generator of one case of a target.
    pub fn of_case(target: &str, seed: u64, case: u64) -> Dice {
        let name =
            target.bytes().fold(seed, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut dice = Dice::new(name ^ case.wrapping_mul(0xd134_2543_de82_ef95));
        dice.draw();
        dice
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        match end {
            0 => 0,
            end => (self.draw() % end as u64) as usize,
        }
    }

    /// True this often.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A number that breaks things: near a power of two, near an end of a type, or small.
    pub fn hostile(&mut self) -> u64 {
        match self.below(8) {
            0 => u64::MAX - self.below(3) as u64,
            1 => (u64::MAX >> 1).wrapping_add(self.below(3) as u64),
            2 => (u64::from(u32::MAX) - 1).wrapping_add(self.below(3) as u64),
            3 => (1 << self.below(64)) - (self.below(2) as u64),
            4 => (48 << 20) - 64 + self.below(128) as u64,
            5 => self.draw(),
            _ => self.below(20) as u64,
        }
    }
}
