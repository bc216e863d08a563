/** What is told once the configuration is written: the same without questions, the unit, and what to do next. */
import type { Proposal } from '../proposals/proposal.ts'
import type { ServiceUnit } from '../service-unit.ts'
import type { NextStep } from './next-steps.ts'
import { indented } from './settings-toml.ts'

export interface Written {
  readonly path: string
  readonly toml: string
  /** For a shell, in lines that it joins. */
  readonly command: string
  readonly proposals: readonly Proposal[]
  readonly next: readonly NextStep[]
  readonly unit: ServiceUnit | undefined
}

/** One line. */
export function writtenJson({ command, unit, ...rest }: Written): string {
  const told = {
    v: 1,
    ...rest,
    command: command.replaceAll(/ \\\n */g, ' '),
    ...(unit === undefined ? {} : { unit }),
  }
  return `${JSON.stringify(told)}\n`
}

export function writtenText(
  { path, toml, command, next, unit }: Written,
  options: { readonly isTomlShown: boolean },
): string {
  const width = Math.max(...next.map(({ what }) => what.length))
  return [
    ...(options.isTomlShown ? [toml] : []),
    `wrote ${path}`,
    '',
    'The same without questions:',
    indented(command),
    ...(unit === undefined ? [] : ['', `${unit.path}:`, indented(unit.text)]),
    ...(unit?.commands ?? []).map((line) => `  ${line}`),
    '',
    'Next',
    ...next.map(({ what, command: text }) => `  ${what.padEnd(width)}  ${text}`),
    '',
  ].join('\n')
}
