/** A configuration file with the reason for each value above it. */
import type { Proposal, SettingValue } from '../proposals/proposal.ts'
import { wrap } from '../wrap.ts'

const SECTIONS = ['node', 'worker', 'worker.owner', 'store', 'http']
/** It is also shown indented, on a terminal of 80 columns. */
const COLUMNS = 77

/** Each setting once. The text is the same for the same choices, in whatever order they come. */
export function settingsToml(choices: readonly Proposal[], title: string): string {
  const bySection = Map.groupBy(
    choices.toSorted((a, b) => (a.setting < b.setting ? -1 : 1)),
    ({ setting }) => setting.slice(0, setting.lastIndexOf('.')),
  )
  const known = SECTIONS.filter((section) => bySection.has(section))
  const others = [...bySection.keys()].filter((section) => !SECTIONS.includes(section))
  const lines = wrap(title, '# ', COLUMNS)
  for (const section of [...known, ...others.toSorted()]) {
    lines.push('', `[${section}]`)
    for (const { setting, value, reason } of bySection.get(section) ?? [])
      lines.push(
        ...wrap(reason, '# ', COLUMNS),
        `${setting.slice(section.length + 1)} = ${tomlValue(value)}`,
      )
  }
  return `${lines.join('\n')}\n`
}

/** JSON of these is TOML, but for DEL, which TOML wants escaped. */
function tomlValue(value: SettingValue): string {
  const text =
    typeof value === 'object'
      ? `[${value.map((item) => JSON.stringify(item)).join(', ')}]`
      : JSON.stringify(value)
  return text.replaceAll('\u007f', String.raw`\u007f`)
}

/** For a text that is shown among others. */
export const indented = (text: string): string => text.trimEnd().replaceAll(/^(?=.)/gm, '  ')
