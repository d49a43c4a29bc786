//! Source lines of code sections, from `.BTF.ext`.

use rtbpf_btf::BtfExt;

use crate::code::Line;
use crate::object::Object;

impl Object {
    pub(crate) fn find_lines(&mut self, ext: &BtfExt) {
        let Some(btf) = &self.btf else { return };
        for info in &ext.lines {
            let name = btf.str(info.name);
            let section = self.code.section_named(name).and_then(|at| self.code.sections.get_mut(at));
            let Some(section) = section else { continue };
            section.lines.extend(info.records.iter().map(|record| Line {
                slot: record.offset / 8,
                line: record.line,
                column: record.column,
                file: record.file,
                text: record.text,
            }));
        }
        for section in &mut self.code.sections {
            section.lines.sort_by_key(|line| line.slot);
            section.lines.dedup_by_key(|line| line.slot);
        }
    }
}
