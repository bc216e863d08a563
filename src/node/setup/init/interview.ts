/**
 * Asks the questions one after the other. A wrong answer is told with what is wrong, and asked again; the
 * return key takes what is proposed.
 */
import type { ConfigIo } from '../../config/config-io.ts'
import { choicesOf, resolveText, type Draft } from './draft.ts'
import type { Disk } from '../machine.ts'
import { questions, type Places, type Question } from './questions.ts'
import { settingsToml } from './settings-toml.ts'
import type { Terminal } from '../terminal.ts'
import { wrap } from '../wrap.ts'

interface InterviewDeps {
  readonly terminal: Terminal
  readonly io: ConfigIo
  readonly lookAtDisk: (directory: string) => Promise<Disk>
}

/** Undefined when the person ended it. */
export async function interview(
  deps: InterviewDeps,
  first: Draft,
  options: { readonly places: Places; readonly isKindSet: boolean },
): Promise<Draft | undefined> {
  const all = questions(options)
  let draft = first
  let number = 0
  for (const make of all) {
    const question = make(draft, options.places)
    if (question === undefined) continue
    number += 1
    deps.terminal.show(`\n${titleText(question, number)}`)
    const next = await answered(deps, draft, question)
    if (next === undefined) return undefined
    draft = await withDisk(deps, next)
  }
  return draft
}

async function answered(
  { terminal, io }: InterviewDeps,
  draft: Draft,
  question: Question,
): Promise<Draft | undefined> {
  for (;;) {
    const answer = await terminal.ask(`  [${question.proposed}] `)
    if (answer === undefined) return undefined
    if (answer === '') return draft
    const taken = question.take(answer)
    const problem = 'problem' in taken ? taken.problem : problemOf(taken, io)
    if (problem === undefined && !('problem' in taken)) return taken
    terminal.show(`${wrap(`! ${problem}`, '  ').join('\n')}\n`)
  }
}

/** What a daemon would say of the file as it would be now. */
function problemOf(draft: Draft, io: ConfigIo): string | undefined {
  const { problems } = resolveText(settingsToml(choicesOf(draft), ''), '/mesh.toml', io)
  // Without the name of the setting, which nobody has seen yet, and the line of a file that is not there.
  return problems[0]?.message.split('\n')[0]?.replace(/^[a-z0-9.-]+: /, '')
}

/** Another data directory may be on another disk. */
async function withDisk({ lookAtDisk }: InterviewDeps, draft: Draft): Promise<Draft> {
  const data = draft.said.get('node.data')?.value
  const { machine } = draft.findings
  if (typeof data !== 'string' || data === machine.disk.directory) return draft
  const disk = await lookAtDisk(data)
  return { ...draft, findings: { ...draft.findings, machine: { ...machine, disk } } }
}

function titleText({ title, choices, reason }: Question, number: number): string {
  return [
    `${number}. ${title}`,
    ...choices.map((choice) => `     ${choice}`),
    ...wrap(`proposed: ${reason}`, '  '),
    '',
  ].join('\n')
}
