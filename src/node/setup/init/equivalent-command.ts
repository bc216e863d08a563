/** The command that writes the same file without asking anything. */
import { quote } from '../../../base/quote.ts'
import type { Draft } from './draft.ts'
import { choicesOf } from './draft.ts'
import type { SettingValue } from '../proposals/proposal.ts'

const COLUMNS = 79

/**
 * In lines that a shell joins. `flagOf` has the flag of each setting that there is one for. An empty list
 * has no flag and needs none: it is proposed again.
 */
export function equivalentCommand(
  draft: Draft,
  options: { readonly flagOf: ReadonlyMap<string, string>; readonly config: string | undefined },
): string {
  const words = ['mesh-node init --yes']
  if (options.config !== undefined) words.push(`--config ${quoted(options.config)}`)
  words.push(`--for ${draft.jobs}`)
  for (const { setting, value } of choicesOf(draft)) {
    const flag = options.flagOf.get(setting)
    const text = flagText(value)
    if (flag !== undefined && text !== undefined)
      words.push(text === '' ? `--${flag}` : `--${flag} ${quoted(text)}`)
  }
  return joined(words)
}

function flagText(value: SettingValue): string | undefined {
  if (typeof value === 'boolean') return value ? '' : undefined
  if (typeof value === 'object') return value.length === 0 ? undefined : value.join(',')
  return String(value)
}

/** A word for a POSIX shell. */
export const quoted = (text: string): string =>
  /^[A-Za-z0-9_./:,=@%+-]+$/.test(text) ? text : quote(text)

function joined(words: readonly string[]): string {
  const lines: string[] = []
  let line = ''
  for (const word of words) {
    const longer = line === '' ? word : `${line} ${word}`
    // Room for the backslash at its end.
    if (line !== '' && longer.length > COLUMNS - 2) {
      lines.push(`${line} \\`)
      line = `  ${word}`
    } else line = longer
  }
  return [...lines, line].join('\n')
}
