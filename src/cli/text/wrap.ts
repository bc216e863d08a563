/** Text in lines that break between words. */
import { displayWidth } from './style.ts'

/** Lines of at most `width` columns where the words allow it; all but the first begin with `indent`. */
export function wrap(text: string, width: number, indent = ''): string[] {
  const [lead = ''] = /^ */.exec(text) ?? []
  const lines: string[] = []
  let line = lead
  let isEmpty = true
  for (const word of text.slice(lead.length).split(' ')) {
    if (isEmpty) {
      line += word
    } else if (displayWidth(line) + 1 + displayWidth(word) > width) {
      lines.push(line)
      line = indent + word
    } else {
      line += ` ${word}`
    }
    isEmpty = false
  }
  return [...lines, line]
}
