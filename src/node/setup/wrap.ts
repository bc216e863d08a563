/** Text in lines that fit a terminal of 80 columns. */

/** Every line of it begins with `indent`; a word that is too long has a line of its own. */
export function wrap(text: string, indent: string, width = 79): string[] {
  const lines: string[] = []
  let line = indent
  for (const word of text.split(' ')) {
    const isFirst = line === indent
    if (!isFirst && line.length + 1 + word.length > width) {
      lines.push(line)
      line = indent + word
    } else line += isFirst ? word : ` ${word}`
  }
  return [...lines, line]
}
