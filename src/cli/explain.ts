/** `mesh explain`, and docs/errors.md: both are the table of base/errors.ts in words. */
import { ERRORS, isErrorCode, MeshError, type ErrorCode } from '../base/errors.ts'
import { nearestOf } from '../base/nearest.ts'
import type { Arguments } from './command.ts'
import { printJson, printLines, type Context } from './context.ts'
import { wrap } from './text/wrap.ts'
import { isTopic, TOPICS } from './topics.ts'

export async function explain(context: Context, args: Arguments): Promise<number> {
  const [asked] = args.operands
  if (asked === undefined) {
    if (args.flag('json')) await printJson(context.stdout, ERRORS)
    else
      await printLines(
        context.stdout,
        codes().map((code) => `${code}  ${ERRORS[code].title}`),
      )
    return 0
  }
  if (isTopic(asked)) {
    const { title, paragraphs } = TOPICS[asked]
    if (args.flag('json')) await printJson(context.stdout, { topic: asked, title, paragraphs })
    else
      await printLines(context.stdout, [
        `${asked}: ${title}`,
        ...paragraphs.flatMap((text) => [
          '',
          ...(text.startsWith('  ') ? text.split('\n') : wrap(text, 80)),
        ]),
      ])
    return 0
  }
  const code = /^\d{1,4}$/.test(asked) ? `MESH${asked.padStart(4, '0')}` : asked.toUpperCase()
  if (!isErrorCode(code))
    throw new MeshError('MESH0601', `there is no error code ${JSON.stringify(asked)}`, {
      hints: [
        `the nearest: ${nearestOf(code, codes(), 2).join(', ')}`,
        `topics: ${Object.keys(TOPICS).join(', ')}`,
      ],
    })
  if (args.flag('json')) await printJson(context.stdout, { code, ...ERRORS[code] })
  else
    await printLines(context.stdout, [
      `${code}: ${ERRORS[code].title}`,
      '',
      ...wrap(ERRORS[code].explain, 80),
      '',
      facts(code),
    ])
  return 0
}

/** docs/errors.md. */
export function errorsMarkdown(): string {
  const sections = codes().map(
    (code) =>
      `## ${code}\n\n**${ERRORS[code].title}.** ${ERRORS[code].explain}\n\n${facts(code)}\n`,
  )
  return `# Error codes

Made from \`src/base/errors.ts\` (\`mesh explain CODE\` prints the same). A code never changes its meaning.
Each message has the observed values; this page has what they mean and what to do.

${sections.join('\n')}`
}

const codes = (): ErrorCode[] => Object.keys(ERRORS).filter(isErrorCode).toSorted()

const facts = (code: ErrorCode): string =>
  `Exit status ${ERRORS[code].exit}. ${
    ERRORS[code].retryable ? 'The same command may work later.' : 'Trying again changes nothing.'
  }`
