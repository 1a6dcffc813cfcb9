"""Wordings of questions, as plain lists; `questions.fill` puts words for what stands in braces.

`{head} {clause}` and `{gloss}`, `{name}`, `{word}`, `{short}`, `{long}` come from one WordNet entry, so that its answer
is known; all other braces are filled at random, each on its own. A line that stands twice is drawn twice as often.
"""


def lines(block: str) -> tuple[str, ...]:
    """The lines of a block, stripped."""
    return tuple(line.strip() for line in block.strip().splitlines())


def words(block: str) -> tuple[str, ...]:
    """The words of a block."""
    return tuple(block.split())


EXPANSION = lines("""
    What does {short} stand for?
    What does the abbreviation {short} mean?
    What do the letters {short} stand for?
    What is {short} short for?
    What is the full form of {short}?
    What does {short} mean?
    What is {short}?
    What does the acronym {short} represent?
    {short} stands for what?
""")
ABBREVIATION = lines("""
    What is the abbreviation of {long}?
    What is the acronym for {long}?
    How do you abbreviate {long}?
    What is the abbreviation for the {long}?
    What is {long} abbreviated as?
    What are the initials of {long}?
""")

THING_CLAUSE = lines("""
    {lead} {head} {clause}?
    {lead} {head} {clause}?
    {lead} {last} {clause}?
    {lead} {last} {clause}?
    Name a {head} that {clause}.
    What is the name of the {head} that {clause}?
    What {clause}?
""")
THING_GLOSS = lines("""
    What do you call {gloss}?
    What {head_of_kind} is {gloss}?
    What is the term for {gloss}?
    What is {gloss} called?
    What is the name for {gloss}?
    What is another word for {word}?
    What is the word for {gloss}?
""")
NAMED_GLOSS = lines("""
    What is {gloss} called?
    What is the name of {gloss}?
    Name {gloss}.
""")
THING = lines("""
    {lead} {head} {happened}?
    {lead} {head} {did}?
    {lead} {head} is {adjective}?
    {lead} {head} has {nouns}?
    What is the {most} {head} in {topic}?
    What is the {most} {head}?
    What is {person} 's favorite {head}?
    What {head} is {topic}?
    What {heads} {happened}?
    What did {subject} {making}?
    What is the {head} of {topic}?
    What is {topic} made of?
    Name {a_head} {did}.
    What are the {heads} of {topic}?
    What {head} comes from {topic}?
    What was the first {head} {done} in {topic}?
    What is the most popular {head} in {topic}?
    What {did}?
    What do {nouns} {consume}?
""")

DEFINITION = lines("""
    What is {a_word}?
    What is {a_word}?
    What is {word}?
    What is {word}?
    What are {words}?
    What does {word} mean?
    What does the word {word} mean?
    What is the meaning of {word}?
    Define {word}.
    What is the definition of {word}?
    What is the {word}?
    What's {a_word}?
""")
REASON = lines("""
    Why {happened}?
    Why {happened}?
    Why {happened}?
    Why {be} {topic} {adjective}?
    What caused {topic}?
    What causes {noun}?
    What makes {topic} {adjective}?
    What is the reason for {topic}?
    Why do {nouns} {do}?
    For what reason {happened}?
    Why is {topic} called {topic}?
""")
MANNER = lines("""
    How do you {do}?
    How do you {lemma} {topic}?
    How can I {do}?
    How {happened}?
    How {happened}?
    How {happened}?
    How does {a_noun} work?
    How is {noun} made?
    How are {nouns} {done}?
    How to {do}?
    What is the best way to {do}?
    How do {nouns} {lemma}?
    How did {person} die?
    How was {topic} {done}?
""")
DESCRIPTION = lines("""
    What is the {purpose} of {topic}?
    What is the {purpose} of the word {noun}?
    What is the difference between {noun} and {noun}?
    What is the difference between {topic} and {topic}?
    What happened to {topic}?
    What do {nouns} do?
    What does {a_noun} do?
    What is {person} famous for?
    What is {topic} known for?
    Where does the word {noun} come from?
    What is {topic} like?
    What does {topic} look like?
    What is it like to {do}?
    What effect does {noun} have on {topic}?
    Tell me about {topic}.
    What happens when {subject} {did}?
    What is the origin of the name {noun}?
    Describe {topic}.
    What are the {purpose}s of {topic}?
    What is {noun} used for?
    What are the symptoms of {noun}?
""")

PERSON_CLAUSE = lines("""
    Who {clause}?
    Who {clause}?
    What {head} {clause}?
    What {last} {clause}?
    Which {head} {clause}?
    Which {last} {clause}?
    What is the name of the {head} who {clause}?
    Name the {head} who {clause}.
    Who was the {last} who {clause}?
""")
PERSON_GLOSS = lines("""
    Who was the {gloss}?
    Who is the {gloss}?
    What was the name of the {gloss}?
    Name the {gloss}.
    Which person was the {gloss}?
""")
BIOGRAPHY = lines("""
    Who is {name}?
    Who is {name}?
    Who was {name}?
    Who was {name}?
    Who was {name} in history?
""")
GROUP_CLAUSE = lines("""
    What {head} {clause}?
    Which {head} {clause}?
""")
GROUP = lines("""
    What {group} {did}?
    What {group} {happened}?
    Which {group} {did}?
    What is the name of the {group} that {did}?
    What {group} is {topic} part of?
    What is the {most} {group} in {topic}?
""")
PERSON = lines("""
    Who {did}?
    Who {did}?
    Who {made} {topic}?
    Who {made} {topic}?
    Who is the {role} of {topic}?
    Who was the {role} of {topic}?
    Who was {topic} 's {role}?
    What {role} {did}?
    What {role} {happened}?
    Which {role} {did}?
    What is the name of the {role} of {topic}?
    Name the {role} who {did}.
    What was {person} 's real name?
    Whose {noun} {did}?
    Who was the first {role} to {do}?
    By whom was {topic} {made}?
    What is {topic} 's {role} called?
    Who played {person} in {topic}?
    What famous {role} {did}?
    Who {happened}?
    Who are the {roles} of {topic}?
    What {country} {role} {did}?
""")

PLACE_CLAUSE = lines("""
    What {head} {clause}?
    Which {head} {clause}?
    Name the {head} that {clause}.
""")
PLACE_GLOSS = lines("""
    What {head} is {where}?
    What is the {head} {where}?
    Which {head} lies {where}?
    What is the name of {gloss}?
    Name {gloss}.
""")
WHERE_NAME = lines("""
    Where is {name}?
    Where is {name} located?
    Where is {name} found?
    In what country is {name}?
""")
CAPITAL = lines("""
    What is the capital of {country}?
    What is the capital city of {country}?
    What city is the capital of {country}?
    What is the {most} city in {country}?
    What is {country} 's capital?
""")
PLACE = lines("""
    {lead} {site} {happened}?
    {lead} {site} {did}?
    {lead} {site} has the most {nouns}?
    What is the {most} {site} in {topic}?
    What {site} is {topic} in?
    What is the {most} {site}?
    What {site}s border {country}?
    What {site} is home to {topic}?
    What {site} was {person} born in?
    Name a {site} in {topic}.
""")
WHERE = lines("""
    Where {happened}?
    Where {happened}?
    Where was {person} born?
    Where are {nouns} found?
    Where is {topic}?
    Where can I find {topic}?
    Where do {beings} live?
    Where did {topic} originate?
    Where on the body is {topic}?
    Where was {topic} {done}?
    Where does {topic} come from?
    Where can you {do}?
    Where was the first {noun} {made}?
""")

BORN = lines("""
    When was {name} born?
    In what year was {name} born?
""")
DIED = lines("""
    When did {name} die?
    What year did {name} die?
""")
DATE = lines("""
    When {happened}?
    When {happened}?
    When was {topic} {done}?
    When is {topic}?
    What {unit} {happened}?
    In what {unit} {happened}?
    When did {topic} begin?
    On what {unit} was {topic} {done}?
    When was the first {noun} {made}?
    When did {topic} become {topic}?
""")
COUNT = lines("""
    How many {many} {happened}?
    How many {many} are there in {topic}?
    How many {many} are in {a_noun}?
    How many {many} does {topic} have?
    How many {many} {did}?
    What is the number of {many} in {topic}?
    How many {many} make {a_noun}?
    How many people {did}?
    How many {many} are there?
    How many {many} were {done} in {topic}?
""")
MONEY = lines("""
    How much does {topic} cost?
    What is the price of {a_noun}?
    How much is {topic} worth?
    How much money {happened}?
    How much did {subject} pay for {topic}?
    What does it cost to {do}?
    How much was {a_noun} in {year}?
""")
QUANTITY = lines("""
    How {how} is {topic}?
    How {how} {happened}?
    How {how} is {a_noun}?
    What is the {measure} of {topic}?
    What is the {measure} of {a_noun}?
    What is the average {measure} of {a_noun}?
    What was the {measure} of {topic}?
    How long does it take to {do}?
    What percentage of {nouns} {did}?
    At what {measure} {happened}?
    How {how} can {a_noun} {lemma}?
    What is {topic} 's {measure}?
    How {how} was {person}?
    What is the {extreme} {measure} of {topic}?
    How {how} do {nouns} {lemma}?
    What are the chances of {topic}?
    How far is it from {place} to {place}?
""")

MEASURES = lines("""
    population \n length \n height \n depth \n width \n size \n weight \n speed \n temperature \n distance \n area \n age
    price \n cost \n value \n average \n number \n percentage \n rate \n salary \n boiling point \n melting point
    diameter \n volume \n life expectancy \n date \n birthday \n year \n telephone number \n zip code \n area code
    record \n score \n total \n atomic number \n frequency \n altitude \n elevation \n circumference \n amount
    duration \n fare \n income \n budget
""")
HOW = words("""
    long tall far old big large high deep fast heavy hot cold wide often much late close small strong
    thick warm
""")
ROLES = lines("""
    author \n inventor \n founder \n king \n queen \n president \n leader \n owner \n director \n captain \n husband
    wife \n father \n mother \n son \n daughter \n composer \n editor \n governor \n mayor \n prime minister \n ruler
    creator \n killer \n star \n voice \n head \n chairman \n coach \n winner \n manager \n writer \n architect
    designer \n first ruler \n brother \n sister \n emperor \n secretary \n first person \n leading actor \n singer
    god \n goddess \n patron saint
""")
SITES = lines("""
    city \n country \n state \n continent \n river \n island \n town \n mountain \n lake \n capital \n ocean \n sea
    region \n county \n province \n street \n desert \n nation \n planet \n university \n place \n park \n building
    valley \n hotel \n airport \n village \n state capital \n mountain range \n part of the world \n peninsula
    college \n bay \n hemisphere
""")
GROUPS = lines("""
    company \n organization \n team \n band \n tribe \n party \n army \n group \n family \n corporation \n agency
    club \n people \n college team \n airline \n union \n firm \n orchestra \n newspaper publisher \n religious order
    race \n baseball team
""")
MAKING = words("""
    invent write discover paint compose build make win say eat wear play create sell find study design
    lose teach use own call sing drink name produce describe
""")
PURPOSES = words("""
    purpose origin meaning function history definition nature theory significance effect role story cause
    legend etymology process use importance idea background advantage principle
""")
THINGS = lines("""
    color \n colour \n animal \n book \n film \n movie \n song \n language \n sport \n game \n disease \n food
    drink \n plant \n flower \n tree \n bird \n fish \n dog \n instrument \n religion \n currency \n metal \n chemical
    element \n product \n car \n ship \n letter \n word \n symbol \n event \n war \n battle \n novel \n play \n poem
    opera \n television show \n award \n prize \n weapon \n medicine \n drug \n vitamin \n organ \n bone \n fruit
    vegetable \n dance \n card \n tool \n gas \n fabric \n breed of dog \n kind of animal \n type of bridge \n insect
    holiday \n law \n magazine \n newspaper \n cereal \n brand of beer
""")
SUBJECTS = lines("""
    he \n she \n they \n people \n the government \n the company \n Americans \n the president \n we \n it
""")
UNITS = lines("""
    year \n year \n year \n date \n month \n day \n century \n time \n decade \n season \n day of the week
""")
LEADS = lines("""
    What \n What \n What \n Which \n What kind of \n What type of \n What sort of \n In what \n What other
""")
PLACE_LEADS = lines("What \n What \n What \n Which \n In what \n In which")

TYPE_NAMES = lines("""
    Type \n Type \n Kind \n Category \n Answer type \n Expected answer \n Class \n Wants \n Asks for \n Label
    Kind of answer
""")
TYPE_ORDERS = lines("""
    What kind of answer does this question want?
    What does the question ask for?
    Classify the question by its answer.
    Which type of answer is expected?
    Name the type of the answer.
    What is being asked for?
    Classify the following question:
    Does it ask for a person, a place, a number or something else?
    Classify the following text:
""")
